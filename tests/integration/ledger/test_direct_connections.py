"""The kept connection of the driver: what it commits, what it rolls back, and when it is replaced."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.errors import LedgerUnavailable
from accepted.storage.db.engine import transaction
from accepted.storage.db.statements import Direct, Statement

PUT = Statement("INSERT INTO queues (name) SELECT unnest(CAST(:names AS text[])) RETURNING name")
COUNT = Statement("SELECT count(*) FROM queues WHERE name = :name")
WHO = Statement("SELECT pg_backend_pid()")


@pytest.fixture
async def direct(engine: AsyncEngine) -> AsyncIterator[Direct]:
    direct = Direct(engine)
    yield direct
    await direct.close()


async def count(engine: AsyncEngine, name: str) -> int:
    async with transaction(engine) as conn:
        return int(await COUNT.value(conn, name=name))


async def backend(direct: Direct) -> int:
    async with direct.transaction() as conn:
        return int(await WHO.value(conn))


async def test_what_is_committed_stays_and_what_is_not_does_not(engine: AsyncEngine, direct: Direct) -> None:
    async with direct.transaction() as conn:
        assert await PUT.values(conn, names=["kept"]) == ["kept"]
        await conn.commit()
    async with direct.transaction() as conn:
        await PUT.rows(conn, names=["forgotten"])
    assert (await count(engine, "kept"), await count(engine, "forgotten")) == (1, 0)


async def test_a_statement_runs_alike_on_both_connections(engine: AsyncEngine, direct: Direct) -> None:
    async with transaction(engine) as conn:
        assert [row["name"] for row in await PUT.rows(conn, names=["a", "b"])] == ["a", "b"]
        await conn.commit()
    async with direct.transaction() as raw:
        assert [row["count"] for row in await COUNT.rows(raw, name="a")] == [1]


async def test_the_connection_is_kept_until_an_error(direct: Direct) -> None:
    first = await backend(direct)
    assert await backend(direct) == first
    with pytest.raises(asyncpg.UniqueViolationError):
        async with direct.transaction() as conn:
            await PUT.rows(conn, names=["twice", "twice"])
    assert await backend(direct) != first


async def test_its_way_of_planning_ends_with_it(engine: AsyncEngine) -> None:
    shown = Statement("SELECT pg_backend_pid() AS pid, current_setting('enable_seqscan') AS seqscan")
    ledger = Direct(engine)
    async with ledger.statements() as conn:
        (inside,) = await shown.rows(conn)
    await ledger.close()
    async with transaction(engine) as conn:
        (outside,) = await shown.rows(conn)
    assert (inside["seqscan"], outside["seqscan"], inside["pid"]) == ("off", "on", outside["pid"])


async def test_one_that_the_server_ended_is_replaced(engine: AsyncEngine, direct: Direct) -> None:
    first = await backend(direct)
    await end(engine, first)
    assert await backend(direct) != first


async def test_one_that_ends_in_a_transaction_is_an_outage(engine: AsyncEngine, direct: Direct) -> None:
    with pytest.raises(LedgerUnavailable):
        await put_after_the_end(engine, direct)
    assert await count(engine, "lost") == 0


async def test_transactions_wait_for_each_other(engine: AsyncEngine, direct: Direct) -> None:
    async def put(name: str) -> Any:
        async with direct.transaction() as conn:
            await PUT.rows(conn, names=[name])
            await conn.commit()

    await asyncio.gather(*(put(f"n{n}") for n in range(5)))
    assert [await count(engine, f"n{n}") for n in range(5)] == [1] * 5


async def put_after_the_end(engine: AsyncEngine, direct: Direct) -> None:
    async with direct.transaction() as conn:
        await end(engine, await WHO.value(conn))
        await PUT.rows(conn, names=["lost"])
        await conn.commit()


async def end(engine: AsyncEngine, pid: int) -> None:
    """Terminate that backend, and wait until it is gone."""
    gone = Statement("SELECT pg_terminate_backend(:pid, 5000)")
    async with transaction(engine) as conn:
        assert await gone.value(conn, pid=pid)
