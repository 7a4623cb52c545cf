"""A host answers again: the jobs that were deferred for it are brought forward."""

import asyncio
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.storage import targets
from accepted.storage.db import notifications
from accepted.storage.db.engine import transaction

MOST = 1000
"""Jobs a transaction, so that no lock is held for long."""

STRAGGLERS = 2.0
"""Seconds after which to search once more: an attempt that was deferred a moment ago may be written only after the
first search."""


async def release(engine: AsyncEngine, tenant: str, host: str) -> bool:
    """Forget what is known against `host`: it is called as usual. False: nothing is known. `wake` is the caller's."""
    async with transaction(engine) as conn:
        done = await targets.release(conn, tenant, host)
        await conn.commit()
    return done


async def wake(engine: AsyncEngine, tenant: str, host: str) -> int:
    """Let go of the jobs that wait for `host`, at a rising pace. Doing it twice does no more. Returns how many."""
    done, after = 0, None
    while True:
        page = await _page(engine, tenant, host, after, done)
        done += len(page)
        if len(page) < MOST:
            return done
        after = page[-1][1]


async def wake_stragglers(engine: AsyncEngine, tenant: str, host: str) -> None:
    """Some seconds after `wake`, once more."""
    await asyncio.sleep(STRAGGLERS)
    await wake(engine, tenant, host)


async def _page(
    engine: AsyncEngine, tenant: str, host: str, after: datetime | None, done: int
) -> list[tuple[UUID, datetime]]:
    async with transaction(engine) as conn:
        page = await targets.wake(conn, tenant, host, after, done, MOST)
        await notifications.announce(conn, [job_id for job_id, _ in page])
        await conn.commit()
    return page
