"""SQL run on the ledger of a test, each statement in a transaction of its own."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.storage.db.engine import transaction


async def rows(engine: AsyncEngine, sql: str, **values: Any) -> Sequence[Any]:
    async with transaction(engine) as conn:
        return list((await conn.execute(text(sql), values)).mappings())


async def do(engine: AsyncEngine, sql: str, **values: Any) -> int:
    async with transaction(engine) as conn:
        done = await conn.execute(text(sql), values)
        await conn.commit()
    return int(done.rowcount)


async def waits_for_a_lock(engine: AsyncEngine) -> bool:
    """Whether somebody on this database does."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await rows(engine, waiting))
