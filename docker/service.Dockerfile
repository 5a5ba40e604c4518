# The service. Without arguments: ONNX on a CPU, no torch. --build-arg EXTRAS=gpu adds torch for a CUDA device.
# The digest fixes Debian, Python and pip; docs/DEPLOYMENT.md says how to renew it. PYTHON_IMAGE takes it from elsewhere.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE:-python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b} AS base

FROM base AS package
WORKDIR /build
COPY docker/requirements-build.txt ./
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes --requirement requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY model_store model_store
COPY service service
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# The folder of the store belongs to the user of both images: a fresh volume mounted there inherits that.
RUN groupadd --gid 10001 etegrec \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin etegrec \
    && install --directory --owner=10001 --group=10001 /models

# Wheels only, and only those whose hashes are known: nothing is compiled, and nothing that an index changed is taken.
ARG EXTRAS=""
COPY docker/requirements-service${EXTRAS:+-$EXTRAS}.txt /etc/etegrec/requirements.txt
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes --requirement /etc/etegrec/requirements.txt

# The wheel names all commands; the code of training is not in this image.
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps --no-index /wheels/*.whl && rm "$(command -v etegrec-train)"
COPY docker/healthcheck.py docker/make_secrets.py /usr/local/lib/etegrec/

# Empty, and nobody's but root's: a path in a model that is not absolute leads nowhere.
WORKDIR /var/empty
USER 10001:10001
ENV ETEGREC_STORE=/models \
    ETEGREC_HOST=0.0.0.0 \
    ETEGREC_PORT=8000
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["etegrec-serve"]
