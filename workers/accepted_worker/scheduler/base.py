"""What every loop of the scheduler is, and the one way in which they are run.

Each loop is safe in any number of processes at once: its rows are locked, or its statement is guarded.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import structlog

from accepted.concurrency import cancel_requested
from accepted.errors import AcceptedError
from accepted.metrics import LOOP_DONE, LOOP_FAILED

AFTER_FAILURE = 1.0
"""Seconds before a failed round is tried again. PostgreSQL's return is noticed within this."""

log = structlog.get_logger("scheduler")


class Loop(Protocol):
    """One duty of the scheduler."""

    name: str

    async def run_once(self) -> int:
        """Do what is to be done now, in one bounded round. Returns how many rows it did something about."""
        ...

    def pause(self, done: int) -> float:
        """Seconds until the next round, after one that did `done`."""
        ...


@runtime_checkable
class ListeningLoop(Loop, Protocol):
    """A loop that is notified when there is something to do."""

    async def listen(self) -> None:
        """Listen until cancelled."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so long, or sooner, when a notification comes."""
        ...


async def run(loops: Sequence[Loop]) -> None:
    """Run the loops beside each other until cancelled; one that fails tries again, and stops no other."""
    async with asyncio.TaskGroup() as group:
        for loop in loops:
            group.create_task(_run(loop))
            if isinstance(loop, ListeningLoop):
                group.create_task(loop.listen())


async def _run(loop: Loop) -> None:
    while not cancel_requested():
        try:
            done = await loop.run_once()
            LOOP_DONE.labels(loop.name).inc(done)
            pause = loop.pause(done)
        except AcceptedError as error:
            LOOP_FAILED.labels(loop.name).inc()
            log.warning("loop_failed", loop=loop.name, error=f"{type(error).__name__}: {error}")
            pause = AFTER_FAILURE
        except Exception:
            LOOP_FAILED.labels(loop.name).inc()
            log.exception("loop_failed", loop=loop.name)
            pause = AFTER_FAILURE
        await (loop.sleep(pause) if isinstance(loop, ListeningLoop) else asyncio.sleep(pause))
