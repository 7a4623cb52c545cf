# One image for every command: `docker run accepted api`, `… worker`, `… scheduler`, `… migrate`.
# Handlers of your own: FROM accepted, copy their package into /srv/accepted, set ACCEPTED_HANDLERS.

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY deploy/requirements.lock deploy/build.lock /locks/
# The build back end stays out of the environment that is shipped.
RUN python -m venv /opt/accepted \
    && /opt/accepted/bin/pip install --no-cache-dir --require-hashes -r /locks/requirements.lock \
    && /opt/accepted/bin/pip install --no-cache-dir --require-hashes --target /opt/build -r /locks/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY docs/runbook.md docs/
COPY app app
COPY workers workers
RUN PYTHONPATH=/opt/build /opt/accepted/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/accepted/bin/pip uninstall --yes pip setuptools

FROM python:3.11.14-slim-bookworm
ENV PATH=/opt/accepted/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin accepted \
    && install --directory --owner=accepted --mode=0700 /var/spool/accepted
COPY --from=build /opt/accepted /opt/accepted
WORKDIR /srv/accepted
USER 10001
# Metrics and health of whatever process runs in the container; publish the second port to nobody but the scraper.
ENV ACCEPTED_METRICS_PORT=9464
EXPOSE 8000 9464
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["accepted", "healthcheck"]
ENTRYPOINT ["accepted"]
CMD ["--help"]
