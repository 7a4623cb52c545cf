"""What each process loads before it is ready: what it does not use is most of the time that a start could take."""

import pytest

from tests.support.loading import loaded_by

CONNECTED = """
from accepted.broker import create_broker
from accepted.settings import Settings
from accepted.storage.db.engine import create_engine
url = "postgresql://127.0.0.1/nothing"
create_broker(Settings(database_url=url), create_engine(url))
"""
"""As each process connects: with PostgreSQL as the broker."""

WORKER = (
    CONNECTED
    + """
from accepted_worker import worker_process
from accepted_worker.attempt import registry
registry.load([registry.BUILT_IN])
"""
)
SCHEDULER = CONNECTED + "from accepted_worker import scheduler_process"
API = CONNECTED + "import accepted.api.app, accepted.api.http.server"

NOBODY = {
    "aio_pika", "aiormq", "aiosmtplib", "alembic", "httpcore", "httpx", "jinja2", "opentelemetry.sdk", "PIL",
    "requests", "typer",
}  # fmt: skip
"""The drivers of AMQP and SMTP, HTTP clients, Pillow, migrations, spans: loaded where they are first used."""

HTTP_SERVER = {"fastapi", "starlette", "uvicorn", "opentelemetry"}

RUNS_HANDLERS = {
    "accepted_worker.handlers", "accepted_worker.outbound.egress", "accepted_worker.process_pool",
    "accepted_worker.runtime",
}  # fmt: skip


@pytest.mark.parametrize(
    ("start", "unwanted"),
    [
        pytest.param(WORKER, NOBODY | HTTP_SERVER | {"accepted.api"}, id="worker"),
        pytest.param(SCHEDULER, NOBODY | HTTP_SERVER | RUNS_HANDLERS | {"accepted.api"}, id="scheduler"),
        pytest.param(API, NOBODY | {"accepted_worker"}, id="api"),
    ],
)
def test_a_process_loads_only_what_it_uses(start: str, unwanted: set[str]) -> None:
    loaded = loaded_by(start)
    assert "accepted.storage.db.engine" in loaded
    assert not loaded & unwanted


def test_a_broker_of_amqp_loads_its_driver() -> None:
    amqp = CONNECTED.replace("database_url=url", 'database_url=url, broker_url="amqp://127.0.0.1"')
    assert "aio_pika" in loaded_by(amqp)


def test_a_client_command_loads_no_settings_and_no_driver() -> None:
    loaded = loaded_by("""
import contextlib, io, os
os.environ["ACCEPTED_URL"] = "http://127.0.0.1:9"
from accepted.cli import main
with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
    main.main(["jobs", "get", "01a20a73-7f5d-744f-9754-2aec7fff0b68"])
""")
    assert "httpx" in loaded
    assert not loaded & {"accepted.settings", "aio_pika", "asyncpg", "fastapi", "sqlalchemy", "structlog", "uvicorn"}
