# The trainer: torch, and a prepared data set inside, so that no run needs the network.
# pip brings torch's CUDA build; --build-arg EXTRA_INDEX_URL=… with an index of CPU builds makes the image smaller.
FROM python:3.11-slim-bookworm AS requirements
WORKDIR /build
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py train > requirements.txt

FROM python:3.11-slim-bookworm AS package
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY model_store model_store
COPY training training
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# Folders of both volumes belong to the user of the image: fresh volumes mounted there inherit that.
RUN groupadd --gid 10001 etegrec \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin etegrec \
    && install --directory --owner=10001 --group=10001 /models /runs

# Wheels only: nothing is compiled, and no compiler is needed.
ARG EXTRA_INDEX_URL=""
COPY constraints.txt /etc/etegrec/
COPY --from=requirements /build/requirements.txt /etc/etegrec/
RUN pip install --no-cache-dir --only-binary=:all: ${EXTRA_INDEX_URL:+--extra-index-url "$EXTRA_INDEX_URL"} \
    --constraint /etc/etegrec/constraints.txt --requirement /etc/etegrec/requirements.txt

# The wheel names all three commands; the code of the service is not in this image.
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl && rm "$(command -v etegrec-serve)"

# Empty: no data in the image (MovieLens may not be redistributed); mount prepared data instead.
ARG DATASET=ml-100k
RUN if [ -n "$DATASET" ]; then \
      etegrec-train prepare --data "$DATASET" --preset demo --out /data/prepared && rm -rf /data/downloads; \
    else mkdir -p /data; fi

USER 10001:10001
ENV ETEGREC_STORE=/models \
    MPLCONFIGDIR=/tmp/matplotlib
STOPSIGNAL SIGTERM
CMD ["etegrec-train", "--help"]
