"""What an attempt came to: outcome, attempt record, webhook and outbox row commit together, or not at all."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from app.broker.base import Broker
from app.coalescing import Coalescer
from app.domain.transitions import Transition
from app.metrics import BATCH_SIZE, OUTCOMES_FENCED
from app.services import webhooks
from app.storage import changes, completion, outbox
from app.storage.direct import Connection, Direct
from app.storage.engine import transaction

MOST = changes.MOST

LINGER = 0.002
"""Seconds in which outcomes gather once they come faster than commits."""


async def settle(engine: AsyncEngine, broker: Broker, batch: Sequence[Transition]) -> list[bool]:
    """Apply the transitions in one transaction. False: the fence held this one off, and nothing was written for it.

    Raises `LedgerUnavailable`, after which the caller may try the same batch again: what had committed after all
    is then held off by its own fence.
    """
    async with transaction(engine) as conn:
        done = await _apply(conn, broker, batch)
        await conn.commit()
    return done


async def expire(engine: AsyncEngine, broker: Broker, most: int) -> int:
    """waiting -> expired for up to `most` jobs past their `expires_at`, with their webhooks. Returns how many."""
    async with transaction(engine) as conn:
        late = await outbox.expire(conn, most)
        await webhooks.record(conn, broker, [job_id for job_id, wants_webhook in late if wants_webhook])
        await changes.announce(conn, [job_id for job_id, _ in late])
        await conn.commit()
    return len(late)


class Outcomes:
    """Outcomes of one worker's attempts, coalesced. Calling it returns once the outcome is committed or fenced off."""

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._ledger = Direct(engine)
        self._broker = broker
        self.record: Coalescer[Transition, bool] = Coalescer(self._settle, most=MOST, linger=LINGER)

    async def close(self) -> None:
        await self._ledger.close()

    async def _settle(self, batch: list[Transition]) -> Sequence[bool]:
        async with self._ledger.transaction() as conn:
            done = await _apply(conn, self._broker, batch)
            await conn.execute("COMMIT")
        return done


async def _apply(conn: Connection, broker: Broker, batch: Sequence[Transition]) -> list[bool]:
    BATCH_SIZE.labels("outcomes").observe(len(batch))
    settled = await completion.apply(conn, list(batch))
    await webhooks.record(conn, broker, [one.job_id for one in settled if one.wants_webhook])
    done = {one.job_id for one in settled}
    OUTCOMES_FENCED.inc(len(batch) - len(done))
    return [transition.held.job_id in done for transition in batch]
