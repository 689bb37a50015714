#!/usr/bin/env bash
# All checks of `make check`, the cheapest first. Stops at the first error and names the command that
# fixes it, if there is one. mypy uses one core, so it runs beside the other checks.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH

step() {
  local remedy=$1
  shift
  printf '== %s\n' "$*"
  if ! "$@"; then
    printf 'make check failed at: %s\n  %s\n' "$*" "$remedy" >&2
    exit 1
  fi
}

fresh_stubs() {
  scripts/genproto.sh "$scratch/stubs" &&
    diff --recursive --brief --exclude=__pycache__ proto/gen "$scratch/stubs"
}

finish_mypy() {
  local status=0
  wait "$mypy" || status=$?
  mypy=
  cat "$scratch/mypy"
  return "$status"
}

scratch=$(mktemp -d)
mypy >"$scratch/mypy" 2>&1 &
mypy=$!
# At an error of another check, mypy ends at once.
trap '[[ -z $mypy ]] || kill "$mypy"; rm -rf "$scratch"' EXIT

step 'fix it with: make fix' ruff format --check --quiet
step 'fix what is fixable with: make fix' ruff check --quiet
step 'see docs/architecture.md for the arrows' lint-imports --no-logo
step 'each message stands beside its field in proto/' buf lint proto
step 'fix it with: make proto' fresh_stubs
step 'an exemption needs its reason beside it' hadolint Dockerfile
step 'an exemption needs its reason beside it' shellcheck \
  .ci/run scripts/*.sh examples/*/*.sh tests/e2e/image/*.sh
step 'see Documentation in CONTRIBUTING.md' python scripts/site/make_site.py check
step 'an exemption needs its reason beside it' finish_mypy
printf 'make check: all checks passed\n'
