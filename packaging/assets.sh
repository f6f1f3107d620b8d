#!/bin/sh
# Writes manual pages and shells' completions into target/packaging, as this
# program tells them: packaging/assets.sh target/release/ratekeeper
set -eu

program=$(realpath "${1:?which program?}")
cd "$(dirname "$0")/.."
out=target/packaging

rm -rf "$out"
mkdir -p "$out/completions"
"$program" man --out "$out/man"
for shell in bash zsh fish; do
    "$program" completions "$shell" >"$out/completions/ratekeeper.$shell"
done
