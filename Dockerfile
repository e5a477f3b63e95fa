# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
WORKDIR /build
RUN python -m venv /opt/almenara
COPY requirements/run.txt requirements/
RUN /opt/almenara/bin/pip install --no-cache-dir --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY platform platform
COPY plugins plugins
RUN /opt/almenara/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
COPY --from=build /opt/almenara /opt/almenara
RUN useradd --uid 10001 --no-create-home --home-dir /data almenara && install -d -o 10001 /data
USER 10001
WORKDIR /data
ENV PATH=/opt/almenara/bin:$PATH PYTHONUNBUFFERED=1 \
    ALMENARA_STORAGE__DIR=/data ALMENARA_SERVER__HOST=0.0.0.0
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["almenara"]
CMD ["serve"]
