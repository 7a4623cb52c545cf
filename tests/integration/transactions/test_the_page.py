"""docs/transactions.md: its blocks run, in their order, as they stand there."""

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

import accepted.outbox
from tests.support.ledger.callers import PSYCOPG
from tests.support.ledger.sql import rows
from tests.support.service.http_app import HttpApp

PAGE = Path(__file__).parents[3] / "docs" / "transactions.md"
BLOCKS = re.findall(r"^```(sql|python)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
ORDERS = "CREATE TABLE orders (number int)"


async def test_its_blocks_run(
    app: HttpApp, database_url: str, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every order is there with its job; the migration makes the table that the SQL makes."""
    ledger, other = [await asyncpg.connect(url) for url in (database_url, empty_database_url)]
    await ledger.execute(ORDERS)
    await other.execute(ORDERS)
    names = {
        "DATABASE_URL": database_url.replace("postgresql://", PSYCOPG),
        "DATABASE_DSN": database_url,
        "OTHER_DSN": empty_database_url,
    }
    migrated: list[str] = []
    monkeypatch.setattr("alembic.op", SimpleNamespace(execute=migrated.append))
    for language, block in BLOCKS:
        if language == "sql":
            await (other if "accepted_outbox" in block else ledger).execute(block)
        else:
            await asyncio.to_thread(run, block, dict(names))
    assert migrated == [accepted.outbox.TABLE]
    (created,) = [block for language, block in BLOCKS if "CREATE TABLE accepted_outbox" in block]
    assert created.strip().rstrip(";") == accepted.outbox.TABLE.strip()
    numbers = [row["number"] for row in await ledger.fetch("SELECT number FROM public.orders")]
    jobs = await rows(app.engine, "SELECT payload FROM jobs")
    assert sorted(job["payload"]["number"] for job in jobs) == sorted(numbers) == [7, 8, 9, 10]
    assert await other.fetchval("SELECT body ->> 'type' FROM accepted_outbox") == "noop"
    for conn in (ledger, other):
        await conn.close()


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, PAGE.name, "exec"), names)
    if "upgrade" in names:
        names["upgrade"]()
