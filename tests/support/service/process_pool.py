"""Attempts in the children of a process pool: run one, and find its processes."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from accepted.domain.job import Job
from accepted_worker.process_pool.messages import Setup
from accepted_worker.process_pool.pool import ProcessPool
from tests.support.service.processes import BYTECODE
from tests.support.waiting import until

SETUP = Setup(("tests.support.handlers.process_handlers",), "127.0.0.0/8", None, None, 1000, 10_000)
# A child that may not keep its bytecode compiles all that it imports: 3 s of CPU instead of 1.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(BYTECODE))

AT_ONCE = 10.0  # seconds; against the minute that what is killed would go on


def a_job(do: str, arg: Any = None, type: str = "deed", attempt: int = 1) -> Job:
    now = datetime.now(UTC)
    return Job(
        id=uuid4(), tenant="t", type=type, queue="deeds", status="running", priority=4, attempt=attempt,
        max_attempts=5, payload=json.dumps({"do": do, "arg": arg}), created_at=now, run_at=now,
    )  # fmt: skip


async def run(pool: ProcessPool, do: str, arg: Any = None, type: str = "deed") -> Any:
    reports: list[str] = []
    async with pool.child() as child:
        result = json.loads(bytes(await child.run(a_job(do, arg, type), lambda said, _: reports.append(said.value))))
    return [json.loads(report) for report in reports] or result


async def family_in(pids: Path) -> list[psutil.Process]:
    """The child that computes and the program that it has started."""
    text = await until(lambda: pids.exists() and pids.read_text(), 30, "the attempt to run")
    return [psutil.Process(int(pid)) for pid in str(text).split()]


async def gone(family: list[psutil.Process]) -> None:
    def alive() -> list[psutil.Process]:
        return [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    await until(lambda: not alive(), AT_ONCE, lambda: f"{alive()} to be dead")
