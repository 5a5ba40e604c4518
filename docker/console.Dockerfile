# The console: pages for people, a client of the service and of nothing else. No model, no torch, no Redis.
# The digest fixes Debian, Python and pip; docs/DEPLOYMENT.md says how to renew it. PYTHON_IMAGE takes it from elsewhere.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE:-python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b} AS base

FROM base AS package
WORKDIR /build
COPY docker/requirements-build.txt ./
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes --requirement requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY console console
COPY clients/python clients/python
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . ./clients/python

FROM base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# Another user than that of service and trainer: their secrets are none of its business.
RUN groupadd --gid 10002 console \
    && useradd --uid 10002 --gid 10002 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin console

# Wheels only, and only those whose hashes are known: nothing is compiled, and nothing that an index changed is taken.
COPY docker/requirements-console.txt /etc/etegrec/requirements.txt
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes --requirement /etc/etegrec/requirements.txt

# The wheel names all commands; the code of the others is not in this image.
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps --no-index /wheels/*.whl \
    && rm "$(command -v etegrec-train)" "$(command -v etegrec-serve)" "$(command -v etegrec-batch)" \
      "$(command -v etegrec-ingest)" "$(command -v etegrec-models)"
COPY docker/healthcheck.py /usr/local/lib/etegrec/

# Empty, and nobody's but root's. What the library keeps while it runs is in /tmp.
WORKDIR /var/empty
USER 10002:10002
ENV ETEGREC_CONSOLE_HOST=0.0.0.0 \
    NICEGUI_STORAGE_PATH=/tmp/nicegui
EXPOSE 8088
STOPSIGNAL SIGTERM
CMD ["etegrec-console"]
