# The trainer: torch, and a prepared data set inside, so that no run needs the network.
# pip brings torch's CUDA build. A smaller image: --build-arg TORCH_INDEX_URL=… with an index of CPU builds, which torch
# alone comes from, and --build-arg TORCH_SHA256=… with the hash that it lists for the wheel.
# The digest fixes Debian, Python and pip; docs/DEPLOYMENT.md says how to renew it. PYTHON_IMAGE takes it from elsewhere.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE:-python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b} AS base

FROM base AS package
WORKDIR /build
COPY docker/requirements-build.txt ./
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes --requirement requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY model_store model_store
COPY training training
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# Folders of both volumes belong to the user of the image: fresh volumes mounted there inherit that.
RUN groupadd --gid 10001 etegrec \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin etegrec \
    && install --directory --owner=10001 --group=10001 /models /runs

# Wheels only, and only those whose hashes are known: nothing is compiled, and nothing that an index changed is taken.
ARG TORCH_INDEX_URL=""
ARG TORCH_SHA256=""
COPY docker/requirements-trainer.txt docker/requirements-trainer-cpu.txt /etc/etegrec/
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
      echo "$(grep -o '^torch==[^ ]*' /etc/etegrec/requirements-trainer.txt) --hash=sha256:${TORCH_SHA256:?as the index lists it}" > /tmp/torch.txt \
      && pip install --no-cache-dir --only-binary=:all: --require-hashes --no-deps --index-url "$TORCH_INDEX_URL" --requirement /tmp/torch.txt \
      && rm /tmp/torch.txt; \
    fi \
    && pip install --no-cache-dir --only-binary=:all: --require-hashes \
      --requirement "/etc/etegrec/requirements-trainer${TORCH_INDEX_URL:+-cpu}.txt"

# The wheel names all commands; the code of the service is not in this image.
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps --no-index /wheels/*.whl && rm "$(command -v etegrec-serve)" "$(command -v etegrec-ingest)"

# Empty: no data in the image (MovieLens may not be redistributed); mount prepared data instead.
ARG DATASET=ml-100k
RUN if [ -n "$DATASET" ]; then \
      etegrec-train prepare --data "$DATASET" --preset demo --out /data/prepared && rm -rf /data/downloads; \
    else mkdir -p /data; fi

# Empty, and nobody's but root's: a path that is not absolute leads nowhere.
WORKDIR /var/empty
USER 10001:10001
ENV ETEGREC_STORE=/models \
    MPLCONFIGDIR=/tmp/matplotlib
STOPSIGNAL SIGTERM
CMD ["etegrec-train", "--help"]
