# syntax=docker/dockerfile:1
# The server, for CPU (the default target) and for NVIDIA GPUs (--target gpu). Neither holds torch,
# a compiler or pip; both run as a nameless user and write nothing outside /tmp, so that
# `docker run --read-only --tmpfs /tmp` works. ONNX Runtime would otherwise write a device id under
# HOME and report to its maker, from its import on.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
# onnxruntime-gpu of constraints.txt is built for CUDA 13 and cuDNN 9.
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04

# --- the wheel: sources, stubs and one model ----------------------------------------------------
FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY proto/gen proto/gen
COPY server server
COPY exporter exporter
COPY training training
COPY clients/python clients/python
COPY models/mnist/3 models/mnist/3
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist .

# --- one environment for each target ------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS cpu-environment
COPY constraints.txt scripts/image-environment.sh /build/
COPY --from=wheel /dist /dist
RUN /build/image-environment.sh python server,trace,store,signing

FROM ${CUDA_IMAGE} AS gpu-base
# hadolint ignore=DL3008 # the archive keeps only the newest build of a package: a pin would rot
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*

FROM gpu-base AS gpu-environment
# hadolint ignore=DL3008 # as above
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY constraints.txt scripts/image-environment.sh /build/
COPY --from=wheel /dist /dist
RUN /build/image-environment.sh python3 gpu,trace,store,signing

# --- the images ---------------------------------------------------------------------------------
FROM gpu-base AS gpu
ARG VERSION=0.3.0
ARG REVISION=""
LABEL org.opencontainers.image.title="imagemint (GPU)" \
      org.opencontainers.image.description="Mints synthetic images over gRPC, by serial number" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Not every builder creates the directory that WORKDIR names.
RUN mkdir -p /var/empty
COPY --from=gpu-environment /opt/imagemint /opt/imagemint
COPY models /models
# HOME: the CUDA driver keeps its kernel cache there, and a nameless user has none.
ENV PATH=/opt/imagemint/bin:${PATH} \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    IMAGEMINT_REPOSITORY=/models \
    IMAGEMINT_GRPC_ADDRESS=0.0.0.0:8001 \
    IMAGEMINT_METRICS_ADDRESS=0.0.0.0:8002 \
    IMAGEMINT_HTTP_ADDRESS=0.0.0.0:8000
# Empty, because ONNX Runtime looks for the external data of a model in the working directory.
WORKDIR /var/empty
USER 65532:65532
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# With TLS it reads IMAGEMINT_HEALTHCHECK_TLS_CA and its like; see docs/operating.md.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
  CMD ["python", "-m", "imagemint.server.healthcheck", "127.0.0.1:8001"]
ENTRYPOINT ["imagemint"]
CMD ["serve"]

FROM ${PYTHON_IMAGE} AS cpu
ARG VERSION=0.3.0
ARG REVISION=""
LABEL org.opencontainers.image.title="imagemint" \
      org.opencontainers.image.description="Mints synthetic images over gRPC, by serial number" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The base has a pip of its own, which nothing needs here. Not every builder creates the directory
# that WORKDIR names.
RUN pip uninstall --yes --root-user-action ignore setuptools wheel pip \
 && mkdir -p /var/empty
COPY --from=cpu-environment /opt/imagemint /opt/imagemint
COPY models /models
ENV PATH=/opt/imagemint/bin:${PATH} \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    IMAGEMINT_REPOSITORY=/models \
    IMAGEMINT_GRPC_ADDRESS=0.0.0.0:8001 \
    IMAGEMINT_METRICS_ADDRESS=0.0.0.0:8002 \
    IMAGEMINT_HTTP_ADDRESS=0.0.0.0:8000
# Empty, because ONNX Runtime looks for the external data of a model in the working directory.
WORKDIR /var/empty
USER 65532:65532
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# With TLS it reads IMAGEMINT_HEALTHCHECK_TLS_CA and its like; see docs/operating.md.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
  CMD ["python", "-m", "imagemint.server.healthcheck", "127.0.0.1:8001"]
ENTRYPOINT ["imagemint"]
CMD ["serve"]
