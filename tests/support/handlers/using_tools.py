"""Handlers that use their tools, for
`ACCEPTED_HANDLERS=accepted_worker.handlers,tests.support.handlers.using_tools`."""

import asyncio
import os
import signal
from pathlib import Path

from pydantic import BaseModel
from sqlalchemy import text

from accepted import Context, Retry, job
from tests.support.waiting import until

JOURNAL = "TOOLED_JOURNAL"
"""The environment variable that names the file in which `pays` notes what it charged."""


class Parts(BaseModel):
    """How many parts the work has, how long each takes, and the file without which the last is not begun."""

    parts: int = 4
    seconds: float = 0.5
    wait_for: str | None = None


@job("reports")
async def reports(payload: Parts, ctx: Context) -> None:
    """Says how far it is."""
    for part in range(payload.parts):
        await ctx.progress(100 * part / payload.parts, f"part {part}")
        await asyncio.sleep(payload.seconds)
        if payload.wait_for and part == payload.parts - 2:
            await until(Path(payload.wait_for).exists, 60)
    await ctx.progress(100, "done")


class Payment(BaseModel):
    """On how many first attempts the worker dies with everything done and nothing returned."""

    die_attempts: int = 0


@job("pays", retry=Retry(max_attempts=3, schedule=(0.0,)))
async def pays(payload: Payment, ctx: Context) -> int:
    """Charges, books and has a receipt sent."""

    def charge() -> int:
        with Path(os.environ[JOURNAL]).open("a") as journal:
            journal.write(f"{ctx.job.id}\n")
        return 42

    charged = await ctx.step("charge", charge)
    await ctx.submit("noop", {"charged": charged})
    async with ctx.transaction() as conn:
        values = {"job_id": ctx.job.id, "attempt": ctx.job.attempt}
        await conn.execute(text("INSERT INTO payments (job_id, attempt) VALUES (:job_id, :attempt)"), values)
    if ctx.job.attempt <= payload.die_attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(charged)
