#!/usr/bin/env bash
# Makes /opt/imagemint, the environment of an image, and leaves out what the server never loads.
# Usage: image-environment.sh PYTHON EXTRAS    (python server,trace)
# The Dockerfile runs it with constraints.txt beside it and the wheel in /dist.
set -euo pipefail
python=$1
extras=$2
environment=/opt/imagemint
constraints=$(dirname "$0")/constraints.txt

"$python" -m venv "$environment"
# The wheel is named by its file: a name alone would ask the registry for it.
wheels=(/dist/imagemint-*.whl)
"$environment/bin/pip" install --no-cache-dir --no-compile --constraint "$constraints" \
  "imagemint[$extras] @ file://${wheels[0]}"
# Python 3.12 and later give a new environment no setuptools; pip only warns of its absence.
"$environment/bin/pip" uninstall --yes setuptools pip

cd "$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
# The test suites of the libraries, and what compilers and type checkers read.
find . -type d \( -name test -o -name tests \) -prune -exec rm -r {} +
find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.cc' \) \
  -delete
# The server needs scipy.special, which imports nothing else of SciPy than scipy._lib.
find scipy -mindepth 1 -maxdepth 1 -type d ! -name special ! -name _lib -exec rm -r {} +
# ONNX Runtime's C library, which its Python module holds a second time; tools that prepare models;
# ONNX's own evaluator.
rm -r onnxruntime/capi/libonnxruntime.so.* onnxruntime/{quantization,tools,transformers}
rm -r onnx/{backend,reference}
# The descriptions of all services of AWS but object storage and what gives credentials for it.
if [[ -d botocore/data ]]; then
  find botocore/data -mindepth 1 -maxdepth 1 -type d \
    ! -name s3 ! -name signin ! -name sso ! -name sso-oidc ! -name sts -exec rm -r {} +
fi
# Images have all of models/ in /models.
rm -r imagemint/models

# Writes the bytecode of what a start imports, because a server cannot write to a read-only root. Fails
# here, rather than in production, if a release needs what is missing.
"$environment/bin/python" - <<'IMPORTS'
import botocore.session
import imagemint.client.generate
import imagemint.server.app
import imagemint.server.healthcheck
import imagemint.server.processes.supervisor
import imagemint.server.processes.worker
import onnxruntime
import opentelemetry.exporter.otlp.proto.grpc.trace_exporter
import opentelemetry.sdk.trace
import s3fs
IMPORTS
"$environment/bin/imagemint" serve --help >/dev/null
