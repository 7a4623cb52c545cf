"""A ledger that refuses us, is not there, or has another schema: one line that says where, what, and what to do."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from alembic.script import ScriptDirectory

from accepted.api.app import create_app
from accepted.errors import LedgerUnavailable
from accepted.settings import Settings
from accepted.storage.db import migrate
from accepted.storage.db.engine import create_engine, open_connection, reading
from accepted.storage.db.statements import Statement
from tests.support.ledger.sql import do
from tests.support.servers.ports import free_port
from tests.support.servers.postgres import STRICT_PASSWORD as PASSWORD
from tests.support.servers.postgres import DatabaseServer, PostgresServer, strict_postgres
from tests.support.servers.proxy import Direction, Proxy
from tests.support.waiting import until


@pytest.fixture(scope="module")
def strict_server() -> Iterator[PostgresServer]:
    with strict_postgres() as server:
        yield server


def url_of(server: PostgresServer, login: str, database: str = "postgres", more: str = "") -> str:
    return f"postgresql://{login}@127.0.0.1:{server.port}/{database}{more}"


async def refusal_of(url: str) -> str:
    with pytest.raises(LedgerUnavailable) as raised:
        await open_connection(url)
    text = str(raised.value)
    assert len(text.splitlines()) == 1
    assert "hunter2" not in text
    return text


@pytest.mark.parametrize(
    ("login", "database", "more", "said", "to_do"),
    [
        ("needs_password:hunter2wrong", "postgres", "", "password authentication failed", "the password in"),
        ("needs_password", "postgres", "", "password", "ACCEPTED_DATABASE_URL"),
        ("barred:hunter2", "postgres", "", "pg_hba.conf rejects", "admit it in the server's pg_hba.conf"),
        ("nobody_here", "postgres", "", 'role "nobody_here" does not exist', "correct the user"),
        ("postgres", "elsewhere", "", 'database "elsewhere" does not exist', "create the database"),
        ("postgres", "postgres", "?sslmode=require", "TLS failed", "TLS settings"),
        ("postgres", "postgres", "?options=-c%20no_such=1", "no_such", "parameters"),
    ],
)
async def test_a_server_that_refuses(
    strict_server: PostgresServer, login: str, database: str, more: str, said: str, to_do: str
) -> None:
    text = await refusal_of(url_of(strict_server, login, database, more))
    user = login.partition(":")[0]
    assert f"127.0.0.1:{strict_server.port}, user '{user}', database '{database}'" in text
    assert said in text
    assert to_do in text


async def test_a_server_that_is_not_there() -> None:
    port = free_port()
    refused = await refusal_of(f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/d")
    assert f"127.0.0.1:{port}, user 'u', database 'd': connection refused" in refused
    several = await refusal_of(f"postgresql://u:{PASSWORD}@localhost:{port},127.0.0.1:{free_port()}/d")
    assert f"localhost:{port},127.0.0.1:" in several
    unknown = await refusal_of(f"postgresql://u:{PASSWORD}@no-such-host.invalid/d")
    assert "no-such-host.invalid:5432" in unknown
    assert "does not resolve" in unknown


async def test_a_server_that_does_not_answer(strict_server: PostgresServer) -> None:
    async with Proxy(strict_server.url()) as proxy:
        proxy.blackhole()
        text = await refusal_of(proxy.url_for(f"postgresql://postgres:{PASSWORD}@x/postgres?connect_timeout=1"))
    assert "did not answer in time" in text


async def test_a_parameter_reaches_the_session(strict_server: PostgresServer) -> None:
    """The same for SQLAlchemy's pool and for the driver's own connections: both are opened in one place."""
    url = url_of(
        strict_server,
        f"needs_password:{PASSWORD}",
        more="?application_name=shop&connect_timeout=9&options=-c%20work_mem%3D9MB&target_session_attrs=read-write",
    )
    engine = create_engine(url)
    ask = Statement("SELECT current_setting('application_name') || current_setting('work_mem') AS found")
    async with reading(engine) as conn:
        assert await ask.value(conn) == "shop9MB"
    await engine.dispose()
    connection = await open_connection(url)
    assert await connection.fetchval("SELECT current_setting('application_name')") == "shop"
    await connection.close()


async def test_a_connection_whose_first_statement_fails_is_ended(
    postgres_server: PostgresServer, empty_database_url: str
) -> None:
    """Else each try would leave one behind on a server that is slow already."""

    def hold_the_first_statement(direction: Direction, chunk: bytes) -> None:
        if b"SET search_path" in chunk:
            proxy.blackhole("up")

    ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'first-statement'"
    async with Proxy(empty_database_url, watch=hold_the_first_statement) as proxy:
        with pytest.raises(TimeoutError) as raised:
            await open_connection(
                proxy.url_for(empty_database_url) + "?connect_timeout=1&application_name=first-statement"
            )
        assert await asyncio.to_thread(postgres_server.execute, ours) == "1", "the server has not heard yet"
        await proxy.heal()

        async def ended() -> bool:
            return await asyncio.to_thread(postgres_server.execute, ours) == "0"

        await until(ended, 10, "the server's side has ended")
    assert raised.traceback, "it refers to the connection, which ends without being collected"


async def readiness(url: str) -> tuple[int, dict[str, object]]:
    app = create_app(Settings(database_url=url, auth="off"))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        answer = await client.get("/readyz")
    await app.state.accepted.engine.dispose()
    return answer.status_code, answer.json()


async def test_readyz_says_why_the_ledger_refuses(strict_server: PostgresServer) -> None:
    status, body = await readiness(url_of(strict_server, "needs_password:hunter2wrong"))
    (problem,) = body["problems"]  # type: ignore[misc]
    assert (status, body["ledger"], body["broker"]) == (503, "unavailable", "ok")
    assert "password authentication failed" in problem
    assert "hunter2" not in problem


async def test_readyz_compares_the_schema(
    database_url: str, empty_database_url: str, database_server: DatabaseServer
) -> None:
    assert await readiness(database_url) == (200, {"status": "ok", "ledger": "ok", "broker": "ok"})

    status, body = await readiness(empty_database_url)
    (problem,) = body["problems"]  # type: ignore[misc]
    assert (status, body["status"], body["ledger"]) == (503, "unavailable", "unavailable")
    assert re.search(
        r"at 127\.0\.0\.1:\d+, user 'postgres', database 'empty_.*revision none.*`accepted migrate`", problem
    )

    engine = create_engine(database_url)
    await do(engine, "UPDATE alembic_version SET version_num = '9999'")
    status, body = await readiness(database_url)
    (problem,) = body["problems"]  # type: ignore[misc]
    assert (status, body["status"], body["ledger"]) == (200, "ok", "ahead"), "an old process serves on a newer schema"
    assert "9999" in problem
    assert "install the newer version" in problem
    await engine.dispose()


async def test_a_user_without_a_right_to_our_tables(database_url: str, database_server: DatabaseServer) -> None:
    name = database_url.rsplit("/", 1)[1]
    role = f"stranger_{name}"
    database_server.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        status, body = await readiness(database_url.replace("postgres@", f"{role}@"))
    finally:
        database_server.execute(f'DROP ROLE "{role}"')
    (problem,) = body["problems"]  # type: ignore[misc]
    assert status == 503
    assert "permission denied" in problem
    assert role in problem


async def test_an_older_schema_is_behind(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that brings one more migration meets a ledger without it."""
    (tmp_path / "versions").mkdir()
    for name in ("0001_ledger.py", "0002_next.py"):
        (tmp_path / "versions" / name).touch()
    monkeypatch.setattr(migrate, "MIGRATIONS", tmp_path)
    status, body = await readiness(database_url)
    (problem,) = body["problems"]  # type: ignore[misc]
    assert (status, body["ledger"]) == (503, "unavailable")
    assert "0001" in problem
    assert "0002" in problem
    assert "run `accepted migrate`" in problem


async def test_the_files_of_the_migrations_tell_what_alembic_knows(database_url: str) -> None:
    engine = create_engine(database_url)
    found = await migrate.revisions(engine)
    await engine.dispose()
    scripts = ScriptDirectory(str(migrate.MIGRATIONS))
    assert (found.needed, found.known) == (
        scripts.get_current_head(),
        {script.revision for script in scripts.walk_revisions()},
    )
