"""Releasing a target: its host answers again, and the jobs that were deferred because of it are brought forward."""

import asyncio
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.monitoring.audit import Action
from accepted.services.monitoring import audit
from accepted.storage import targets
from accepted.storage.db import notifications
from accepted.storage.db.engine import transaction

MAX_BATCH = 1000
"""Jobs in one transaction, so that no lock is held for long."""

STRAGGLERS = 2.0
"""Seconds before a second search: an attempt that is being deferred during the first is written after it."""


async def release(engine: AsyncEngine, tenant: str, host: str) -> bool:
    """Forget the failures of `host`, so that it is called as usual. False: there are none. The caller calls `wake`."""
    async with transaction(engine) as conn:
        done = await targets.release(conn, tenant, host)
        if done:
            await audit.record(conn, Action.TARGET_RELEASED, tenant, host)
        await conn.commit()
    return done


async def wake(engine: AsyncEngine, tenant: str, host: str) -> int:
    """Bring the jobs that wait for `host` forward, at a rising pace. Idempotent. Returns how many there were."""
    done, after = 0, None
    while True:
        page = await _page(engine, tenant, host, after, done)
        done += len(page)
        if len(page) < MAX_BATCH:
            return done
        after = page[-1][1]


async def wake_stragglers(engine: AsyncEngine, tenant: str, host: str) -> None:
    """`wake` again, `STRAGGLERS` seconds later."""
    await asyncio.sleep(STRAGGLERS)
    await wake(engine, tenant, host)


async def _page(
    engine: AsyncEngine, tenant: str, host: str, after: datetime | None, done: int
) -> list[tuple[UUID, datetime]]:
    async with transaction(engine) as conn:
        page = await targets.wake(conn, tenant, host, after, done, MAX_BATCH)
        await notifications.announce(conn, [job_id for job_id, _ in page])
        await conn.commit()
    return page
