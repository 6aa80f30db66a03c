# The tracker. For a GPU:   docker build -t mixformer:cuda .
#              For a CPU:   docker build -t mixformer:cpu --build-arg TORCH=cpu .
#
# Where packages come from somewhere else than PyPI and pytorch.org (docs/operations.md):
#   --build-arg PYTHON_IMAGE=...   another base image with Python 3.11; the locks are made for that version, on x86-64
#   --build-arg TORCH_INDEX=...    another index that has torch's CPU build
#   --secret id=pip,src=pip.conf   pip's own configuration; --secret id=ca,src=ca.pem: certificates, at /run/secrets/ca

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH=cuda
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /source
# The venv holds no pip: nothing is installed into a running container.
RUN python -m venv --without-pip /venv
COPY deploy/image/${TORCH}.lock deploy/image/
# Only the CPU build stands outside PyPI. Every file is held against its hash, wherever it comes from.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca \
    if [ "$TORCH" = cpu ]; then export PIP_EXTRA_INDEX_URL="$TORCH_INDEX"; fi \
    && python -m pip --python /venv/bin/python install --only-binary :all: --require-hashes -r "deploy/image/${TORCH}.lock" \
    # Torch's headers and test programs are for developers: 145 MB. OpenVINO runs on the CPU alone: 60 MB. sympy's tests: 35 MB.
    && cd /venv/lib/python3*/site-packages \
    && rm -rf torch/include torch/test openvino/libs/libopenvino_intel_[gn]pu_plugin.so openvino/libs/cache.json \
    && find sympy -type d -name tests -prune -exec rm -rf {} +
COPY pyproject.toml README.md ./
COPY model model
COPY service service
COPY training training
COPY proto proto
RUN python -m pip --python /venv/bin/python install --no-deps --no-build-isolation --no-index .
COPY weights /weights
RUN chmod -R a+rX /weights

FROM ${PYTHON_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mixformer-service" \
      org.opencontainers.image.description="A gRPC microservice that tracks objects in camera streams with MixFormer" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# /cache is where a volume may be mounted that keeps compiled networks (--cache-dir): it takes its owner from here.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tracker \
    && install -d -o tracker -g tracker /cache
COPY --from=build /weights /weights
COPY --from=build /venv /venv
# Nothing is written but the worker's socket and, unless --cache-dir says where, the compiled network, both under /tmp: the root file
# system may be read-only.
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MIXFORMER_WEIGHTS=/weights/mixvit_tiny.safetensors
USER 10001:10001
WORKDIR /tmp
# Opened only where --listen or MIXFORMER_LISTEN says so: the service itself listens on loopback.
EXPOSE 50051 9090
HEALTHCHECK --interval=10s --timeout=10s --start-period=120s --retries=3 CMD ["mixformer", "healthcheck"]
ENTRYPOINT ["mixformer"]
CMD ["serve"]
