# The service. Without arguments: ONNX on a CPU, no torch. --build-arg EXTRAS=gpu adds torch for a CUDA device.
FROM python:3.11-slim-bookworm AS requirements
ARG EXTRAS=""
WORKDIR /build
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py ${EXTRAS} > requirements.txt

FROM python:3.11-slim-bookworm AS package
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY model_store model_store
COPY service service
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# The folder of the store belongs to the user of both images: a fresh volume mounted there inherits that.
RUN groupadd --gid 10001 etegrec \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin etegrec \
    && install --directory --owner=10001 --group=10001 /models

# Wheels only: nothing is compiled, and no compiler is needed.
ARG EXTRA_INDEX_URL=""
COPY constraints.txt /etc/etegrec/
COPY --from=requirements /build/requirements.txt /etc/etegrec/
RUN pip install --no-cache-dir --only-binary=:all: ${EXTRA_INDEX_URL:+--extra-index-url "$EXTRA_INDEX_URL"} \
    --constraint /etc/etegrec/constraints.txt --requirement /etc/etegrec/requirements.txt

# The wheel names all three commands; the code of training is not in this image.
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl && rm "$(command -v etegrec-train)"
COPY docker/healthcheck.py /usr/local/lib/etegrec/

USER 10001:10001
ENV ETEGREC_STORE=/models \
    ETEGREC_HOST=0.0.0.0 \
    ETEGREC_PORT=8000
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["etegrec-serve"]
