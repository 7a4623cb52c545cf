"""What must hold after any fault, once it is over: read from the ledger by SQL and held against the journals.

As Jepsen's total-queue does, it counts what was attempted, acknowledged, lost, unexpected, duplicated and recovered
(there, although nobody was told so). I1 to I13 are the invariants of the fault list.

lost = 0             every id that was answered with 202 is there and finished (I1)
recorded once        exactly one attempt of each job has the outcome `succeeded` (I2, I4)
one job a key        in the answers and in the ledger (I3, I13)
nothing unexpected   no effect of a job that the ledger does not know (I4)
nothing left over    no outbox row, no open attempt, no transaction left open (I11)
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults import effects
from tests.support.servers.postgres import connect
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.faults.client import Client

LOOK = 0.1  # seconds between looks at the ledger while waiting
FINISHED = frozenset({"succeeded", "failed", "cancelled", "expired"})

JOBS = """
SELECT id::text AS id, status, attempt, max_attempts, crashes, finished_at, metadata->>'key' AS key,
       error->>'class' AS error, result::text AS result
FROM jobs WHERE type <> 'webhook.deliver'
"""
UNFINISHED = """
SELECT count(*) FROM jobs WHERE status NOT IN ('succeeded', 'failed', 'cancelled', 'expired')
"""
LEFT_OVER = """
SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM attempts WHERE finished_at IS NULL)
"""
OPEN_TRANSACTIONS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'
"""


@dataclass(frozen=True)
class Ledger:
    """The ledger of one test, asked over a new connection each time: the server may just have been killed."""

    url: str

    async def fetch(self, sql: str, *arguments: object) -> list[Any]:
        connection = await connect(self.url, timeout=5, command_timeout=10)
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    async def value(self, sql: str, *arguments: object) -> Any:
        return (await self.fetch(sql, *arguments))[0][0]

    async def execute(self, *statements: str) -> None:
        connection = await connect(self.url, timeout=5, command_timeout=10)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def jobs(self) -> dict[str, Any]:
        return {row["id"]: row for row in await self.fetch(JOBS)}

    async def outcomes(self, job_id: str) -> list[str | None]:
        """The outcome of each attempt so far, None for one that is open."""
        sql = "SELECT outcome FROM attempts WHERE job_id = $1::uuid ORDER BY attempt"
        return [row[0] for row in await self.fetch(sql, job_id)]

    async def count(self, status: str) -> int:
        sql = "SELECT count(*) FROM jobs WHERE status = $1 AND type <> 'webhook.deliver'"
        return int(await self.value(sql, status))

    async def drained(self, within: float) -> None:
        """Wait until every job is finished and nothing is left over."""

        async def done() -> bool:
            return not await self.value(UNFINISHED) and not await self.value(LEFT_OVER)

        await until(done, within, f"all jobs finished ({self.url})", interval=LOOK)


@dataclass(frozen=True)
class Verdict:
    """The numbers of one test. `drained` is how many seconds passed from the end of the fault to the last job's end."""

    attempted: int
    acknowledged: int
    lost: int
    unexpected: int
    duplicated: int
    recovered: int
    drained: float


async def check(
    ledger: Ledger,
    client: "Client",
    journal: Path,
    *,
    within: float = 60.0,
    failed: Collection[str] = (),
    cancelled: Collection[str] = (),
) -> dict[str, Any]:
    """Wait until the service has caught up, then hold it to all of the above. Returns the jobs by id.

    Every job has to succeed but those whose ids are in `failed` or `cancelled`, which have to end so. The numbers are
    left on the client, whatever they are.
    """
    begun = time.monotonic()
    try:
        await ledger.drained(within)
    finally:
        jobs = await ledger.jobs()
        lines = effects.read(journal)
        successes = await _successes(ledger)
        client.verdict = _judge(client, jobs, lines, successes, time.monotonic() - begun)
    otherwise = {**dict.fromkeys(failed, "failed"), **dict.fromkeys(cancelled, "cancelled")}
    _nothing_lost(client, jobs, otherwise)
    _one_job_a_key(client, jobs)
    _recorded_once(successes, jobs)
    _effects_match(lines, jobs)
    await until(lambda: _none_open(ledger), 15, "no transaction left open", interval=LOOK)
    await _finished_is_final(ledger, jobs)
    return jobs


def _judge(
    client: "Client", jobs: dict[str, Any], lines: list[effects.Line], successes: Counter[str], drained: float
) -> Verdict:
    there = {job_id for job_id, job in jobs.items() if job["status"] in FINISHED}
    keys = Counter(job["key"] for job in jobs.values())
    return Verdict(
        attempted=len(client.attempted),
        acknowledged=len(client.ids),
        lost=len(client.ids - there),
        unexpected=len({line.job_id for line in lines} - jobs.keys()),
        duplicated=sum(n - 1 for n in keys.values()) + sum(n - 1 for n in successes.values()),
        recovered=len(jobs.keys() - client.ids),
        drained=drained,
    )


def _nothing_lost(client: "Client", jobs: dict[str, Any], otherwise: dict[str, str]) -> None:
    lost = client.ids - jobs.keys()
    assert not lost, f"{len(lost)} jobs were answered with 202 and are not in the ledger: {sorted(lost)[:5]}"
    wanted = {job_id: otherwise.get(job_id, "succeeded") for job_id in client.ids}
    wrong = {job_id: jobs[job_id]["status"] for job_id in client.ids if jobs[job_id]["status"] != wanted[job_id]}
    assert not wrong, f"accepted, and ended otherwise: {dict(list(wrong.items())[:5])}"


def _one_job_a_key(client: "Client", jobs: dict[str, Any]) -> None:
    answered = {key: ids for key, ids in client.acknowledged.items() if len(ids) != 1}
    assert not answered, f"keys answered with several ids: {answered}"
    per_key = Counter(job["key"] for job in jobs.values())
    doubled = {key: number for key, number in per_key.items() if number > 1}
    assert not doubled, f"keys with several jobs in the ledger: {doubled}"
    unknown = per_key.keys() - client.attempted
    assert not unknown, f"jobs that nobody submitted: {unknown}"


async def _successes(ledger: Ledger) -> Counter[str]:
    """How often each job is recorded as succeeded."""
    return Counter(
        row[0] for row in await ledger.fetch("SELECT job_id::text FROM attempts WHERE outcome = 'succeeded'")
    )


def _recorded_once(successes: Counter[str], jobs: dict[str, Any]) -> None:
    twice = [job_id for job_id, number in successes.items() if number > 1]
    assert not twice, f"recorded as succeeded more than once: {twice[:5]}"
    silent = [job_id for job_id, job in jobs.items() if job["status"] == "succeeded" and not successes[job_id]]
    assert not silent, f"succeeded without such an attempt: {silent[:5]}"


def _effects_match(lines: list[effects.Line], jobs: dict[str, Any]) -> None:
    unexpected = {line.job_id for line in lines} - jobs.keys()
    assert not unexpected, f"effects of jobs that the ledger does not know: {sorted(unexpected)[:5]}"
    effected = {line.job_id for line in effects.of(lines, "finished")}
    without = [job_id for job_id, job in jobs.items() if job["status"] == "succeeded" and job_id not in effected]
    assert not without, f"succeeded without an effect: {without[:5]}"
    runs = Counter((line.job_id, line.attempt) for line in effects.of(lines, "started"))
    again = [run for run, number in runs.items() if number > 1]
    assert not again, f"one attempt ran twice: {again[:5]}"


async def _none_open(ledger: Ledger) -> bool:
    return not await ledger.value(OPEN_TRANSACTIONS)


async def _finished_is_final(ledger: Ledger, before: dict[str, Any]) -> None:
    """Looked at twice, a second's half apart: finished jobs do not change by themselves."""
    await asyncio.sleep(0.5)  # the only way to see that nothing happens
    after = await ledger.jobs()
    changed = [job_id for job_id, job in before.items() if after[job_id] != job]
    assert not changed, f"changed after they had finished: {changed[:5]}"
