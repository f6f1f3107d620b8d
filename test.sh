#!/usr/bin/env bash
# Everything that has to hold, on a bare Debian machine with Rust: installs
# what the tests need, then checks format, lints, docs, dependencies and runs
# all tests.
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s\n' "$*"; }

if [ -x tests/setup.sh ]; then
  step "tools for the tests"
  tests/setup.sh
fi

step "format"
cargo fmt --check

step "lints"
cargo clippy --all-targets -- -D warnings

step "docs"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

step "dependencies: licences, bans, sources"
if ! cargo deny --version >/dev/null 2>&1; then
  cargo install cargo-deny --locked
fi
cargo deny check bans licenses sources

step "tests"
# Benchmarks are built and run once each, shortly, to see that they work.
cargo test --all-targets
cargo test --doc
