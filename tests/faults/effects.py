"""A job type that leaves its traces outside of the ledger: one line at each start and end of an attempt.

Served by the workers of the fault tests through `ACCEPTED_HANDLERS=accepted_worker.handlers,tests.faults.effects`; the
test reads the same file back. O_APPEND makes each line whole whoever else writes, and it survives SIGKILL.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from accepted import Context, Retry, TransientError, job

JOURNAL = "FAULTS_JOURNAL"
"""The environment variable that names the file."""

TYPE = "effect"
QUEUE = "effects"
MOST_EATEN = 2000  # MiB; where nothing limits a process, the machine survives all the same


class Effect(BaseModel):
    """`seconds` to take on the first `slow_attempts` attempts; `die_attempts` of them take the worker along.

    `block_seconds` of the first attempt are spent without giving way to the event loop; `eat_attempts` attempts take
    memory until somebody stops them.
    """

    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(0.0, ge=0)
    slow_attempts: int = 1000
    die_attempts: int = 0
    block_seconds: float = 0.0
    eat_attempts: int = 0
    fail_text: str | None = None
    poison: str | None = None


class Line(NamedTuple):
    """One line of the journal; `at` by time.time()."""

    what: Literal["started", "finished"]
    job_id: str
    attempt: int
    pid: int
    at: float


@job(TYPE, queue=QUEUE, timeout=900, retry=Retry(max_attempts=5, schedule=(0.3,), jitter=0))
async def effect(payload: Effect, ctx: Context) -> dict[str, Any]:
    """Says that it started, takes its time, says that it finished."""
    _append("started", ctx)
    if ctx.job.attempt <= payload.die_attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    if ctx.job.attempt <= payload.eat_attempts:
        _eat()
    if ctx.job.attempt == 1:
        time.sleep(payload.block_seconds)  # noqa: ASYNC251 - the very thing that a handler must not do
    if ctx.job.attempt <= payload.slow_attempts:
        await asyncio.sleep(payload.seconds)
    if payload.fail_text is not None:
        raise TransientError(payload.fail_text.encode("ascii").decode("unicode_escape"))
    _append("finished", ctx)
    return {"attempt": ctx.job.attempt}


def read(journal: Path) -> list[Line]:
    """Every line so far, in the order written."""
    if not journal.exists():
        return []
    return [Line(*json.loads(line)) for line in journal.read_text().splitlines()]


def of(lines: Iterable[Line], what: str, attempt: int | None = None) -> list[Line]:
    return [line for line in lines if line.what == what and attempt in (None, line.attempt)]


def _eat() -> None:
    eaten = []
    while len(eaten) < MOST_EATEN:
        eaten.append(bytearray(os.urandom(1)) * 2**20)


def _append(what: Literal["started", "finished"], ctx: Context) -> None:
    line = json.dumps(Line(what, str(ctx.job.id), ctx.job.attempt, os.getpid(), time.time()))
    journal = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(journal, line.encode() + b"\n")
    finally:
        os.close(journal)
