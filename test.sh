#!/usr/bin/env bash
# Everything that has to hold, on a bare Debian machine with Rust and a C
# compiler: installs what the tests need, then checks format, lints, docs and
# dependencies, and runs all tests.
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s\n' "$*"; }

# Debian's python3 comes without what installs packages.
python_can_install() {
  python3 -c 'import ensurepip, venv' 2>/dev/null || python3 -m pip --version >/dev/null 2>&1
}

install_python() {
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || return 0 # tests/setup.sh says what is missing
    as_root=(sudo -n)
  fi
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends python3-venv
}

step "tools"
if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
  rustup component add rustfmt clippy
fi
if ! cargo deny --version >/dev/null 2>&1; then
  cargo install cargo-deny --locked
fi
if ! python_can_install && command -v apt-get >/dev/null; then
  install_python
fi
tests/setup.sh

step "format"
cargo fmt --check

step "oldest Rust is stated"
grep '^rust-version = ' Cargo.toml

step "lints"
cargo clippy --all-targets -- -D warnings

step "docs"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

step "dependencies: licences, bans, sources"
cargo deny check bans licenses sources

step "tests"
# Of benchmarks only that they start: nothing is measured.
cargo test --all-targets
cargo test --doc
