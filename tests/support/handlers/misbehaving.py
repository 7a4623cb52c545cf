"""Job types that do to their workers what handlers do: for `ACCEPTED_HANDLERS` of the tests' own workers."""

import asyncio
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import text

from accepted import AuthError, Context, InvalidJob, NotFound, RateLimited, Retry, TransientError, job

TWICE = Retry(max_attempts=2, schedule=(0.1,), jitter=0.0)
RAISED = {
    "AuthError": AuthError,
    "InvalidJob": InvalidJob,
    "NotFound": NotFound,
    "RateLimited": RateLimited,
    "TransientError": TransientError,
    "ValueError": ValueError,
    "SystemExit": SystemExit,
    "CancelledError": asyncio.CancelledError,
}


class Call(BaseModel):
    """A target to tell of each attempt, and what to do then."""

    model_config = ConfigDict(extra="forbid")

    url: str
    raises: str | None = None
    retry_after: float | str | None = None
    patience: float = 1.0


def call(payload: Call) -> None:
    answer = httpx.get(payload.url, trust_env=False, timeout=payload.patience)
    if payload.raises == "RateLimited":
        raise RateLimited(retry_after=payload.retry_after)
    if payload.raises is not None:
        raise RAISED[payload.raises]("as told")
    answer.raise_for_status()


@job("calls", retry=TWICE)
async def calls(payload: Call, ctx: Context) -> None:
    """Calls as a handler of somebody else's would, with httpx."""
    await asyncio.to_thread(call, payload)


@job("calls.thread", retry=TWICE)
def calls_in_a_thread(payload: Call, ctx: Context) -> None:
    """The same as a plain function."""
    call(payload)


@job("calls.retry", retry=TWICE, not_found="retry")
def calls_again(payload: Call, ctx: Context) -> None:
    """What is not found may come."""
    call(payload)


@job("calls.skip", retry=TWICE, not_found="skip")
def calls_or_not(payload: Call, ctx: Context) -> None:
    """What is not found need not be."""
    call(payload)


RETURNED: dict[str, Callable[[], object]] = {
    "an object": object,
    "a key that is none": lambda: {(1, 2): 3},
    "NaN": lambda: {"n": [1.0, math.nan]},
    "too much": lambda: "x" * 2**20,
}


class Returning(Call):
    """And what to return."""

    returns: str


@job("calls.and.returns", retry=TWICE)
def calls_and_returns(payload: Returning, ctx: Context) -> object:
    """Succeeds, but for its result."""
    call(payload)
    return RETURNED[payload.returns]()


class Locking(Call):
    """And what to lock before the target is told, and what after."""

    first: int
    then: int


LOCK = text("SELECT pg_advisory_xact_lock(CAST(:key AS int8))")


@job("calls.and.locks", retry=TWICE)
async def calls_and_locks(payload: Locking, ctx: Context) -> None:
    """Two of them that lock crosswise are a deadlock for PostgreSQL to break."""
    async with ctx.transaction() as conn:
        await conn.execute(LOCK, {"key": payload.first})
        await asyncio.to_thread(call, payload)
        await conn.execute(LOCK, {"key": payload.then})


class Harm(BaseModel):
    """What to do on the first `attempts` attempts, and a target to tell of each, if any."""

    model_config = ConfigDict(extra="forbid")

    how: Literal["exit", "exit_in_task", "exit_in_callback", "block", "memory"]
    attempts: int = Field(1, ge=0)
    seconds: float = 0.0
    url: str | None = None


@job("harms", queue="harm", retry=Retry(max_attempts=10, schedule=(0.1,), jitter=0.0))
async def harms(payload: Harm, ctx: Context) -> dict[str, Any]:
    """Ends its process, blocks its event loop, or takes all the memory there is."""
    if payload.url is not None:
        await asyncio.to_thread(call, Call(url=payload.url, patience=10))
    if ctx.job.attempt <= payload.attempts:
        if payload.how == "exit":
            os._exit(3)
        elif payload.how == "exit_in_task":
            await asyncio.gather(leave(), asyncio.sleep(600))
        elif payload.how == "exit_in_callback":
            asyncio.get_running_loop().call_soon(sys.exit, 0)
            await asyncio.sleep(600)
        elif payload.how == "block":
            time.sleep(payload.seconds)  # noqa: ASYNC251
        else:
            hoard = [bytes(2**28) for _ in range(1000)]
            del hoard
    return {"attempt": ctx.job.attempt}


async def leave() -> None:
    await asyncio.sleep(0)
    sys.exit(0)


@job("forks", queue="harm", retry=Retry(max_attempts=1))
def forks(payload: dict[str, Any], ctx: Context) -> int | None:
    """Ends a process that it has started."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    process.start()
    process.terminate()
    process.join()
    return process.exitcode


@job("forks.away", queue="harm", retry=Retry(max_attempts=1))
def forks_away(payload: dict[str, Any], ctx: Context) -> int:
    """Leaves a copy of its process running."""
    if pid := os.fork():
        return pid
    time.sleep(600)
    os._exit(0)


TAKEN: dict[str, Callable[[asyncio.AbstractEventLoop], object]] = {
    "ignored": lambda loop: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "handled": lambda loop: loop.add_signal_handler(signal.SIGTERM, print),
    "removed": lambda loop: loop.remove_signal_handler(signal.SIGTERM),
    "unheard": lambda loop: signal.set_wakeup_fd(-1),
}


@job("takes.signals", queue="harm", retry=Retry(max_attempts=1))
async def takes_signals(payload: dict[str, Any], ctx: Context) -> None:
    """Takes SIGTERM from its worker."""
    TAKEN[payload["how"]](asyncio.get_running_loop())


@job("dawdles", queue="harm", retry=Retry(max_attempts=1))
def dawdles(payload: dict[str, Any], ctx: Context) -> None:
    """Takes longer than some want to wait, and returns."""
    time.sleep(payload["seconds"])


@job("hangs", queue="harm", timeout=0.3, retry=Retry(max_attempts=1))
def hangs(payload: dict[str, Any], ctx: Context) -> None:
    """Never returns."""
    while True:
        time.sleep(600)
