#!/bin/sh
# Makes `.venv-triton`, where tests/interop finds the client of Triton. It stands apart from `.venv`,
# whose Python it borrows: the client needs a protobuf that the server's tools are too new for.
set -eu
cd "$(dirname "$0")/.."

printf '== .venv-triton, for the interop tests\n'
.venv/bin/python -m venv --clear .venv-triton
.venv-triton/bin/python -m pip install --quiet --disable-pip-version-check \
  --constraint constraints-triton.txt 'tritonclient[grpc]' || {
  printf 'imagemint: the installation failed (see above). It needs a package registry;\n' >&2
  printf 'imagemint: every other test runs without it: .venv/bin/python -m pytest\n' >&2
  exit 1
}
