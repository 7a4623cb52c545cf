"""Handlers of jobs that are taken for the cause of a crash; some are one. Each says in which process it ran."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from accepted import Context, Retry, job
from accepted_worker.attempt.progress import PAUSE
from tests.support.ledger.effects import WRITE, mine
from tests.support.waiting import until

RETRY = Retry(max_attempts=10, schedule=(0.1,), jitter=0.0)


class Deed(BaseModel):
    """What to do, and the file of which to wait for the end or the beginning."""

    model_config = ConfigDict(extra="forbid")

    do: Literal["exit", "kill", "leave", "block", "wait"] = "wait"
    seconds: float = 600
    file: str | None = None


def is_over(payload: Deed, begun: float) -> bool:
    return time.monotonic() > begun + payload.seconds or bool(payload.file and Path(payload.file).exists())


@job("suspicious", queue="q", retry=RETRY)
async def suspicious(payload: Deed, ctx: Context) -> int:
    """Ends its process, blocks its event loop, or waits."""
    await ctx.progress(1, str(os.getpid()))
    match payload.do:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            asyncio.get_running_loop().call_soon(sys.exit, 0)
        case "block":
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(2 * PAUSE)  # the progress has to be written
            time.sleep(payload.seconds)  # noqa: ASYNC251
    await until(partial(is_over, payload, time.monotonic()), payload.seconds + 10)
    return os.getpid()


@job("suspicious.thread", queue="q", retry=RETRY)
def suspicious_thread(payload: Deed, ctx: Context) -> int:
    """Waits in a thread, unless its job is cancelled."""
    ctx.progress(1, str(os.getpid()))
    begun = time.monotonic()
    while not (ctx.cancelled or is_over(payload, begun)):
        time.sleep(0.05)
    return os.getpid()


@job("suspicious.tools", queue="q", retry=RETRY)
async def suspicious_tools(payload: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Uses every tool."""
    async with ctx.transaction() as conn:
        await conn.execute(WRITE, mine(ctx))
    child = await ctx.submit("noop", {}, queue="elsewhere")
    kept = await ctx.step("kept", os.getpid)
    await ctx.progress(50, "half")
    return {"pid": os.getpid(), "kept": kept, "child": str(child), "results": ctx.results}


@job("suspicious.tools.thread", queue="q", retry=RETRY)
def suspicious_tools_thread(payload: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Uses every tool from a thread."""
    with ctx.transaction() as conn:
        conn.execute(WRITE, mine(ctx))
    child = ctx.submit("noop", {}, queue="elsewhere")
    kept = ctx.step("kept", os.getpid)
    ctx.progress(50, "half")
    return {"pid": os.getpid(), "kept": kept, "child": str(child), "results": ctx.results}
