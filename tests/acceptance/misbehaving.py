"""Job types that do to their workers what handlers do: for `ACCEPTED_HANDLERS` of the tests' own workers."""

import asyncio
import os
import sys
import time
from typing import Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field

from workers import AuthError, Context, InvalidJob, NotFound, RateLimited, Retry, TransientError, job

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


def call(payload: Call) -> None:
    answer = httpx.get(payload.url, trust_env=False, timeout=1)
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


class Harm(BaseModel):
    """What to do on the first `attempts` attempts."""

    model_config = ConfigDict(extra="forbid")

    how: Literal["exit", "exit_in_task", "exit_in_callback", "block", "memory"]
    attempts: int = Field(1, ge=0)
    seconds: float = 0.0


@job("harms", queue="harm", retry=Retry(max_attempts=10, schedule=(0.1,), jitter=0.0))
async def harms(payload: Harm, ctx: Context) -> dict[str, Any]:
    """Ends its process, blocks its event loop, or takes all the memory there is."""
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


@job("dawdles", queue="harm", retry=Retry(max_attempts=1))
def dawdles(payload: dict[str, Any], ctx: Context) -> None:
    """Takes longer than some want to wait, and returns."""
    time.sleep(payload["seconds"])


@job("hangs", queue="harm", timeout=0.3, retry=Retry(max_attempts=1))
def hangs(payload: dict[str, Any], ctx: Context) -> None:
    """Never returns."""
    while True:
        time.sleep(600)
