"""docs/transactions.md: its blocks run, in their order, as they stand there."""

import asyncio
import shlex
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

import accepted.outbox
from accepted.services import keys
from tests.support.ledger.callers import PSYCOPG
from tests.support.ledger.sql import rows
from tests.support.pages import Block, blocks_to_run
from tests.support.servers.ports import free_port
from tests.support.service.http_app import HttpApp
from tests.support.service.live_api import api
from tests.support.service.processes import StartService
from tests.support.waiting import until

BLOCKS = blocks_to_run("docs/transactions.md")
ORDERS = "CREATE TABLE orders (number int)"
ROLE = "DO $$ BEGIN CREATE ROLE {}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(database_url)
    await conn.execute(ORDERS)
    yield conn
    await conn.close()


@pytest.fixture
async def other(empty_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(empty_database_url)
    await conn.execute(ORDERS)
    yield conn
    await conn.close()


async def test_its_blocks_run(
    app: HttpApp,
    ledger: asyncpg.Connection,
    other: asyncpg.Connection,
    database_url: str,
    empty_database_url: str,
    start_service: StartService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every order is there with its job; the migration makes the table that the SQL makes."""
    names = {
        "DATABASE_URL": database_url.replace("postgresql://", PSYCOPG),
        "DATABASE_DSN": database_url,
        "OTHER_DSN": empty_database_url,
    }
    migrated: list[str] = []
    monkeypatch.setattr("alembic.op", SimpleNamespace(execute=migrated.append))
    for block in BLOCKS:
        if block.language == "python":
            await asyncio.to_thread(run, block, dict(names))
        elif block.language == "sh":
            _, key = await keys.create(app.engine, "acme", "shop", ["jobs:write"])
            async with api(database_url) as live:
                env = {"ACCEPTED_URL": live.url, "ACCEPTED_API_KEY": key}
                start_service(*forward(block, empty_database_url), env=env)
                await until(lambda: is_empty(other), 60, "the forwarder")
        elif "GRANT" in block.text:
            await granted(ledger, block.text)
        else:
            await (other if "accepted_outbox" in block.text else ledger).execute(block.text)
    assert migrated == [accepted.outbox.TABLE]
    (created,) = [block.text for block in BLOCKS if "CREATE TABLE accepted_outbox" in block.text]
    assert created.strip().rstrip(";") == accepted.outbox.TABLE.strip()
    numbers = [row["number"] for conn in (ledger, other) for row in await conn.fetch("SELECT number FROM orders")]
    jobs = await rows(app.engine, "SELECT payload FROM jobs")
    assert sorted(job["payload"]["number"] for job in jobs) == sorted(numbers) == [7, 8, 9, 10, 11]


def run(block: Block, names: dict[str, Any]) -> None:
    exec(compile(block.text, str(block), "exec"), names)
    if "upgrade" in names:
        names["upgrade"]()


def forward(block: Block, database_url: str) -> list[str]:
    """The arguments of the command, with a database and a port of the test."""
    (command,) = block.commands()
    _, *arguments = shlex.split(command)
    there = {"postgresql://shop@db.example/shop": database_url, "9100": str(free_port())}
    return [there.get(argument, argument) for argument in arguments]


async def is_empty(outbox: asyncpg.Connection) -> bool:
    return not await outbox.fetchval("SELECT count(*) FROM accepted_outbox")


async def granted(ledger: asyncpg.Connection, statements: str) -> None:
    """As in a database in which the two roles are there; they are the server's, so this is rolled back."""
    transaction = ledger.transaction()
    await transaction.start()
    for role in ("accepted_submitter", "shop"):
        await ledger.execute(ROLE.format(role))
    await ledger.execute(statements)
    assert await ledger.fetchval("SELECT pg_has_role('shop', 'accepted_submitter', 'MEMBER')")
    assert await ledger.fetchval("SELECT tenant FROM accepted.submitters WHERE role = 'shop'") == "acme"
    await transaction.rollback()
