"""What an attempt came to: outcome, attempt record, webhook and outbox row commit together, or not at all."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker
from accepted.concurrency import Coalescer
from accepted.domain.failures import InvalidJob
from accepted.domain.transitions import Transition
from accepted.metrics import BATCH_SIZE, OUTCOMES_FENCED
from accepted.services.jobs import ending
from accepted.services.jobs.in_transaction import accept
from accepted.storage.attempts import completion
from accepted.storage.db import changes
from accepted.storage.db.direct import Connection, Direct
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import fanout, outbox

MOST = changes.MOST

LINGER = 0.002
"""Seconds in which outcomes gather once they come faster than commits."""


async def settle(engine: AsyncEngine, broker: Broker, batch: Sequence[Transition]) -> list[bool]:
    """Apply the transitions in one transaction. False: the fence held this one off, and nothing was written for it.

    Raises `LedgerUnavailable`, after which the caller may try the same batch again: what had committed after all
    is then held off by its own fence.
    """
    async with transaction(engine) as conn:
        done = await record(conn, broker, batch)
        await conn.commit()
    return done


async def settle_whole(conn: AsyncConnection, broker: Broker, success: Transition, most: int) -> bool:
    """Commit a success with its children, on `conn` together with whatever that transaction holds already.

    False: the fence held it off. Raises `InvalidJob` when its root would have more than `most` descendants, and
    `LedgerUnavailable` or what the driver raises. Only `True` means that anything was committed for sure.
    """
    children = success.children
    if children and not await fanout.grow(conn, children[0].root_id or success.running.job_id, len(children), most):
        raise InvalidJob(f"more than {most} jobs from one root")
    settled = await completion.apply(conn, [success])
    if not settled:
        OUTCOMES_FENCED.inc()
        return False
    await ending.follow(conn, broker, settled)
    await accept(conn, broker, children)
    await conn.commit()
    return True


async def expire(engine: AsyncEngine, broker: Broker, most: int) -> int:
    """waiting -> expired for up to `most` jobs past their `expires_at`, with their webhooks. Returns how many."""
    async with transaction(engine) as conn:
        late = await outbox.expire(conn, most)
        await ending.follow(conn, broker, late)
        await changes.announce(conn, [one.job_id for one in late])
        await conn.commit()
    return len(late)


class Outcomes:
    """Outcomes of one worker's attempts, coalesced. Calling it returns once the outcome is committed or fenced off."""

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._ledger = Direct(engine)
        self._broker = broker
        self.record: Coalescer[Transition, bool] = Coalescer(self._settle, max_batch=MOST, linger=LINGER)

    async def close(self) -> None:
        await self._ledger.close()

    async def _settle(self, batch: list[Transition]) -> Sequence[bool]:
        async with self._ledger.transaction() as conn:
            done = await record(conn, self._broker, batch)
            await conn.execute("COMMIT")
        return done


async def record(conn: Connection, broker: Broker, batch: Sequence[Transition]) -> list[bool]:
    """Apply the transitions, with what follows from them; which of them counted. The caller commits."""
    BATCH_SIZE.labels("outcomes").observe(len(batch))
    settled = await completion.apply(conn, list(batch))
    await ending.follow(conn, broker, settled)
    done = {one.job_id for one in settled}
    OUTCOMES_FENCED.inc(len(batch) - len(done))
    return [transition.running.job_id in done for transition in batch]
