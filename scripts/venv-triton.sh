#!/bin/sh
# Creates `.venv-triton` with the Triton client for tests/interop. It uses the Python of `.venv`, but is
# separate, because the client needs an older protobuf than the tools of the server.
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
