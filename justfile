# Exactly what continuous integration runs.
check:
    ./test.sh

# Serve the example rules.
serve:
    cargo run --release -- serve --rules config/quickstart

# The figures of docs/benchmarks.md.
bench:
    cargo bench --bench decide
    cargo bench --bench stores
    cargo bench --bench service

# Manual pages and completions → target/packaging.
assets: build
    packaging/assets.sh target/release/ratekeeper

build:
    cargo build --release --locked

# A Debian package → target/debian. Needs cargo-deb.
deb: assets
    cargo deb --no-build --locked

# What is inside, for scanners: ratekeeper.cdx.json (CycloneDX). Needs cargo-cyclonedx.
sbom:
    cargo cyclonedx --format json --spec-version 1.5 --target all --override-filename ratekeeper.cdx

# The image. Needs Docker with BuildKit.
image:
    docker build -f packaging/Dockerfile -t ratekeeper .

# Known vulnerabilities and yanked versions too: fetches the database of advisories.
audit:
    cargo deny check
