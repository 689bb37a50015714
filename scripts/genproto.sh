#!/usr/bin/env bash
# Generates the Python stubs from proto/ into proto/gen with the pinned tools of constraints.txt.
# `genproto.sh DIR` writes into DIR instead, which `make check` uses to compare.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-proto/gen}
bin=.venv/bin

mkdir -p "$out"
# open_inference is the Open Inference Protocol. Its protobuf package is `inference`; its Python package
# is ours, because another distribution may own the name `inference`.
packages=(imagemint/v1 imagemint/open_inference)
for package in "${packages[@]}"; do
  rm -rf "${out:?}/$package"
done
"$bin/python" -m grpc_tools.protoc --proto_path=proto \
  --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" \
  --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
  --python_out="$out" --mypy_out="$out" \
  --grpc_python_out="$out" --mypy_grpc_out="$out" \
  proto/imagemint/v1/*.proto proto/imagemint/open_inference/*.proto
for package in "${packages[@]}"; do
  # Files without services get no service stubs.
  for file in "$out/$package"/*_pb2_grpc.py; do
    case "$file" in *_service_pb2_grpc.py) ;; *) rm -f "$file" "${file}i" ;; esac
  done
  touch "$out/$package/py.typed"
  printf '"""Generated stubs of %s: messages in *_pb2, services in *_pb2_grpc."""\n' \
    "${package//\//.}" > "$out/$package/__init__.py"
done
cp proto/imagemint/v1/service_config.json "$out/imagemint/v1/"
