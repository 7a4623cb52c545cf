"""What a loop of the scheduler is, and how loops run.

Each loop is safe in any number of processes at once: it locks its rows, or guards its statement.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import structlog

from accepted import logs
from accepted.concurrency import cancel_requested
from accepted.errors import AcceptedError
from accepted.loops import TurningLoop, turning
from accepted.metrics import LOOP_DONE, LOOP_FAILED, LOOP_SUCCEEDED

AFTER_FAILURE = 1.0
"""Seconds before a failed round is tried again. The scheduler goes on this soon after PostgreSQL is back."""

log = structlog.get_logger("scheduler")


class Loop(Protocol):
    """One duty of the scheduler."""

    name: str

    async def run_once(self) -> int:
        """Do what is due now, in one bounded round. Returns the number of rows that it changed."""
        ...

    def pause(self, done: int) -> float:
        """Seconds until the next round, after one that returned `done`."""
        ...


@runtime_checkable
class WokenLoop(Loop, Protocol):
    """A loop that is woken when there is something to do."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`, or sooner, when it is woken."""
        ...


@runtime_checkable
class ListeningLoop(WokenLoop, Protocol):
    """A loop that notifications wake."""

    async def listen(self) -> None:
        """Listen until cancelled."""
        ...


async def run(loops: Sequence[Loop]) -> None:
    """Run the loops until cancelled. A loop that fails tries again, and stops no other."""
    async with asyncio.TaskGroup() as group:
        for loop in loops:
            group.create_task(_run(loop))
            if isinstance(loop, ListeningLoop):
                group.create_task(_listen(loop))


async def _listen(loop: ListeningLoop) -> None:
    """A loop that cannot listen still polls."""
    while not cancel_requested():
        try:
            await loop.listen()
        except Exception:
            log.exception("loop_does_not_listen", loop=loop.name)
        await asyncio.sleep(AFTER_FAILURE)


async def _run(loop: Loop) -> None:
    sleep = loop.sleep if isinstance(loop, WokenLoop) else asyncio.sleep
    with turning(loop.name) as record:
        while not cancel_requested():
            pause = await _round(loop, record)
            record.rest(pause)
            await sleep(pause)


async def _round(loop: Loop, record: TurningLoop) -> float:
    """One round. Returns the seconds until the next."""
    record.begin()
    try:
        done = await loop.run_once()
        LOOP_DONE.labels(loop.name).inc(done)
        pause = loop.pause(done)
    except AcceptedError as error:
        logs.outage("loop_failed", error, loop=loop.name)
    except Exception:
        log.exception("loop_failed", loop=loop.name)
    else:
        record.succeed()
        LOOP_SUCCEEDED.labels(loop.name).set_to_current_time()
        return pause
    LOOP_FAILED.labels(loop.name).inc()
    record.fail()
    return AFTER_FAILURE
