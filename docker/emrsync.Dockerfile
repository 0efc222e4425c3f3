# The application, the consumers and the commands: one image.
FROM python:3.11.13-slim-bookworm
WORKDIR /opt/emrsync
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md ./
COPY connectors connectors
COPY consumer consumer
COPY producer_app producer_app
COPY operations operations
COPY stack stack
RUN pip install --no-cache-dir --no-build-isolation --no-deps .
COPY docker/make_secrets.py docker/make_secrets.py
# The number that the manifests in deploy/kubernetes run it as.
RUN useradd --system --uid 10001 --no-create-home emrsync
USER emrsync
ENTRYPOINT ["emrsync"]
