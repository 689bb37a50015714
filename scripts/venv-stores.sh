#!/bin/sh
# Installs into `.venv-stores` what `make store-test` needs beside `.venv`: the file systems of Google
# Cloud Storage and Azure, and an emulator of each. They are some 400 MB, so `make test` does without.
set -eu
cd "$(dirname "$0")/.."
azurite=3.37.0

printf '== .venv-stores, for the tests of object stores\n'
.venv/bin/python -m pip install --quiet --disable-pip-version-check --target .venv-stores/python \
  --upgrade --constraint constraints.txt --constraint constraints-stores.txt \
  gcsfs adlfs gcp-storage-emulator
npm install --silent --no-save --no-audit --ignore-scripts --prefix .venv-stores/node \
  "azurite@$azurite"
