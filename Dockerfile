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
EXPOSE 8000
# True of `api` only; switch it off for the other commands, as deploy/compose.yaml does.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["accepted"]
CMD ["--help"]
