# Reproducible: pinned and hashed requirements, and the same image from the same input.
#   docker build --build-arg EXTRAS="nats http" --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) .
# A release passes the tag with its digest, and records it as a label of the image.
ARG BASE=python:3.13-slim

# The build stage runs on the architecture of the build machine: it selects wheels for the target
# architecture and runs nothing of them, so no emulation is needed.
FROM --platform=${BUILDPLATFORM} ${BASE} AS build
# The libraries to install for plugins: extras of pyproject.toml.
ARG EXTRAS="nats http prometheus valkey vllm neo4j kubernetes ray notifiers apprise otlp oidc kubernetes-access"
# Set by BuildKit and buildah; the default is the architecture of the build machine.
ARG TARGETARCH
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/image requirements/image
# nkeys has no wheel, but is pure Python. Any other sdist is refused, because it would be compiled for
# the build machine.
RUN python3 -m venv tools \
 && tools/bin/pip install --require-hashes --only-binary=:all: -r requirements/image/build.txt \
 && case "${TARGETARCH}" in \
        amd64) machine=x86_64 ;; arm64) machine=aarch64 ;; *) machine="${TARGETARCH:-$(uname -m)}" ;; \
    esac \
 && platforms=$(tools/bin/python -c "from packaging.tags import platform_tags; print(*platform_tags())") \
 && set -- \
 && for tag in ${platforms}; do set -- "$@" --platform "${tag%%"$(uname -m)"}${machine}"; done \
 && for extra in core ${EXTRAS}; do set -- "$@" -r "requirements/image/${extra}.txt"; done \
 && tools/bin/pip download --require-hashes --no-deps --no-build-isolation \
        --only-binary=:all: --no-binary=nkeys --dest wheels "$@" \
 && find wheels -name '*.tar.gz' -exec \
        tools/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir wheels {} +
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY platform platform
COPY plugins plugins
ARG SOURCE_DATE_EPOCH=0
# Left out to keep the image small: faker (25 MiB; only generates examples for API descriptions) and
# the commands of libraries. The environment has no pip, because nothing is
# installed at run time. Bytecode is not checked against its source: it can't be written at run time,
# and the modification times of files differ from build to build.
RUN tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
 && python3 -m venv --without-pip /opt/almenara \
 && PYTHONPATH=$(echo tools/lib/python3*/site-packages) \
    /opt/almenara/bin/python -m installer --no-compile-bytecode wheels/*.whl \
 && rm -r /opt/almenara/lib/python3*/site-packages/faker \
 && find /opt/almenara/bin -type f ! -name almenara -delete \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/almenara/lib \
 && install -d -o 10001 -g 10001 data

FROM ${BASE}
ARG VERSION=0.2.0
ARG REVISION=""
LABEL org.opencontainers.image.title="Almenara" \
      org.opencontainers.image.description="Real-time monitoring for fleets" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/almenara /opt/almenara
COPY --from=build --chown=10001:10001 /build/data /data
# Numeric, so that Kubernetes can verify runAsNonRoot.
USER 10001:10001
WORKDIR /data
ENV PATH=/opt/almenara/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ALMENARA_STORAGE__DIR=/data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["almenara"]
CMD ["serve", "--host", "0.0.0.0"]
