#!/usr/bin/env bash
# All checks of `make check`, the cheapest first. Stops at the first error and names the command that
# fixes it, if there is one.
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
  local fresh
  fresh=$(mktemp -d)
  # shellcheck disable=SC2064 # expands the path now, not when the trap runs
  trap "rm -rf '$fresh'" EXIT
  scripts/genproto.sh "$fresh" && diff --recursive --brief --exclude=__pycache__ proto/gen "$fresh"
}

step 'fix it with: make fix' ruff format --check --quiet
step 'fix what is fixable with: make fix' ruff check --quiet
step 'see docs/architecture.md for the arrows' lint-imports --no-logo
step 'each message stands beside its field in proto/' buf lint proto
step 'fix it with: make proto' fresh_stubs
step 'an exemption needs its reason beside it' hadolint Dockerfile
step 'an exemption needs its reason beside it' shellcheck \
  .ci/run scripts/*.sh examples/*/*.sh tests/e2e/image/*.sh
step 'an exemption needs its reason beside it' mypy
step 'see Documentation in CONTRIBUTING.md' python scripts/site/make_site.py check
printf 'make check: all checks passed\n'
