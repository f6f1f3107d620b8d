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
