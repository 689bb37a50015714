#!/bin/sh
# Creates `.venv` if it is missing, and installs this checkout with one extra into it.
# Usage: venv.sh EXTRA    (server, dev, ...)
# Uses $PYTHON if it is set, otherwise the first of the usual names that is new enough.
# Plain sh, because this script runs first on a new machine.
set -eu
cd "$(dirname "$0")/.."
extra=$1

fail() {
  printf 'imagemint: %s\n' "$@" >&2
  exit 1
}

# A name on the PATH may not work (version managers leave dead shims), so each candidate is run.
is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

choose_python() {
  if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 or newer."
    printf '%s\n' "$PYTHON"
    return
  fi
  for name in python3 python3.13 python3.12 python3.11 python; do
    if is_new_enough "$name"; then
      printf '%s\n' "$name"
      return
    fi
  done
  fail "needs Python 3.11 or newer, and found none on the PATH." \
    "Install one, or name it: make PYTHON=/path/to/python3.11"
}

if ! is_new_enough .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  python=$(choose_python)
  printf '== .venv, with %s\n' "$("$python" --version)"
  "$python" -m venv --clear .venv || fail \
    "$python cannot make a virtual environment (see above)." \
    "On Debian and Ubuntu the package python3-venv is missing; otherwise name another Python:" \
    "make PYTHON=/path/to/python3.11"
fi

printf '== installing imagemint[%s] into .venv (the first time takes a while)\n' "$extra"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
  --constraint constraints.txt --editable ".[$extra]" || fail \
  "the installation failed (see above). It needs a package registry; pip's own settings name it."
# pip compiles on one core, which takes a minute for the extra `dev`. Some packages hold files that no
# Python can compile, such as templates; pip ignores them, too.
.venv/bin/python -m compileall -qq -j 0 .venv/lib/python3*/site-packages >/dev/null 2>&1 || true
