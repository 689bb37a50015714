#!/usr/bin/env bash
# Generates the messages of the TypeScript client from proto/ into clients/typescript/src/gen, with the
# protoc of .venv and the plugin of clients/typescript/node_modules.
# `genproto-typescript.sh DIR` writes into DIR instead, which a test uses to compare.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-clients/typescript/src/gen}
plugin=clients/typescript/node_modules/.bin/protoc-gen-es

if [[ ! -x $plugin ]]; then
  printf 'clients/typescript/src/gen is not generated: run npm ci in clients/typescript first\n' >&2
  exit 0
fi
# googleapis-common-protos installs the schemas of the error details beside its Python modules.
googleapis=$(.venv/bin/python -c 'import google.rpc.status_pb2 as s; print(s.__file__[:-24])')
rm -rf "$out"
mkdir -p "$out"
.venv/bin/python -m grpc_tools.protoc --proto_path=proto --proto_path="$googleapis" \
  --plugin=protoc-gen-es="$plugin" --es_out="$out" --es_opt=target=ts,import_extension=js \
  proto/imagemint/v1/*.proto "$googleapis"/google/rpc/{status,error_details}.proto
{
  printf '// @generated from imagemint/v1/service_config.json\n\n'
  printf '/** Retries and load balancing of every call, as gRPC defines them. */\n'
  printf 'export const serviceConfig = '
  sed '$ s/$/;/' proto/imagemint/v1/service_config.json
} > "$out/imagemint/v1/service_config.ts"
