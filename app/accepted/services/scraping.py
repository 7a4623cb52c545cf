"""What only the ledger and the broker know, brought into the metrics of this process before they are shown."""

import asyncio
import math
from collections import Counter

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.monitoring.problems import Kind
from accepted.errors import BrokerUnavailable, LedgerUnavailable
from accepted.metrics import MESSAGES_REJECTED, PROBLEMS, QUEUES, forget_queues
from accepted.services.monitoring.status import problems_now
from accepted.storage import queues
from accepted.storage.db.engine import reading

DEADLINE = 3.0
"""Seconds that the ledger has to answer, and as many for the broker."""


async def refresh_all(engine: AsyncEngine, broker: Broker, lease_ttl: float) -> None:
    """For an API process: what is the same for everybody, too, so only it shows that: rejected messages, and what is
    wrong."""
    rejected, problems, _ = await asyncio.gather(
        _rejected(broker), problems_now(engine, broker, None, lease_ttl), refresh(engine)
    )
    MESSAGES_REJECTED.set(rejected)
    found = Counter((str(one.kind), QUEUES.shown_as(one.queue) if one.queue else "") for one in problems)
    PROBLEMS.show({(str(kind), ""): 0 for kind in Kind} | found)


async def refresh(engine: AsyncEngine) -> None:
    """Forget the series of queues that are gone, unless the ledger does not answer."""
    shown = QUEUES.shown
    try:
        async with asyncio.timeout(DEADLINE), reading(engine) as conn:
            known = await queues.known(conn, shown)
    except (LedgerUnavailable, TimeoutError):
        return
    forget_queues(shown - known)


async def _rejected(broker: Broker) -> float:
    try:
        async with asyncio.timeout(DEADLINE):
            return await broker.count_rejected()
    except (BrokerUnavailable, TimeoutError):
        return math.nan
