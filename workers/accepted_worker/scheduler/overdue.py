"""Overdue: an attempt under a lease over HTTP that runs past its timeout is ended as `timeout`.

A worker process times its attempts itself; a client elsewhere may not, and could renew its lease for ever.
"""

import random

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.transitions import Transition
from accepted.services.jobs.completion import MAX_BATCH, settle
from accepted.services.leases import note
from accepted.storage import leases
from accepted.storage.db.statements import Direct
from accepted.storage.leases import LeasedAttempt

EVERY = 1.0
"""Seconds. By so much an attempt may be late, and a job that its worker was told to let go of."""


class Overdue:
    """Also forgets the workers of leases that the rescuer has ended."""

    name = "overdue"

    def __init__(self, engine: AsyncEngine, broker: Broker, polls: Direct) -> None:
        self._engine = engine
        self._polls = polls
        self._broker = broker

    async def run_once(self) -> int:
        async with self._polls.statements() as conn:
            await leases.retire_idle(conn)
            found = await leases.overdue(conn, MAX_BATCH)
        ending = [_end(one) for one in found]
        done = await settle(self._engine, self._broker, ending) if ending else []
        for one, transition, counted in zip(found, ending, done, strict=True):
            if counted:
                note(one, transition)
        return sum(done)

    def pause(self, done: int) -> float:
        return 0.0 if done == MAX_BATCH else EVERY


def _end(found: LeasedAttempt) -> Transition:
    if found.cancelled:
        return transitions.cancelled(found.running)
    message = f"ran longer than {found.timeout:g} s"
    return transitions.failed(found.running, FailureClass.TIMEOUT, message, random.random())
