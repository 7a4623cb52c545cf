"""What the ledger says of every job, as values that a model can be compared with.

Times are in units from now, to the nearest half of one: all that the model lets happen lies on halves, and the
seconds that a test really takes are far less than that.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from accepted.domain.job import WEBHOOK_TYPE

UNIT = 1000.0
"""Seconds. The steps of our clock, far longer than an example can take."""


@dataclass(frozen=True)
class Waiting:
    """A row of the outbox."""

    attempt: int
    queue: str
    priority: int
    due: float
    published: bool
    expires: float | None


@dataclass(frozen=True)
class Attempt:
    """A row of `attempts`; while `open` it is a lease."""

    number: int
    worker: UUID
    open: bool
    cancel: bool
    outcome: str | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One job, with all that belongs to it. `error` is (class, attempt); `letters` are the classes of dead letters;
    `edits` are (attempt, payload before); `told` are the events of its webhooks."""

    status: str
    attempt: int
    max_attempts: int
    crashes: int
    error: tuple[str, int] | None
    result: str | None
    payload: str
    run_at: float
    expires: float | None
    finished: bool
    retried_after: tuple[int, ...]
    outbox: tuple[Waiting, ...]
    attempts: tuple[Attempt, ...]
    letters: tuple[str, ...]
    edits: tuple[tuple[int, str], ...]
    told: tuple[str, ...]


@dataclass(frozen=True)
class Snapshot:
    """All jobs but webhooks; idempotency keys with their job and their end; workers with their last heartbeat."""

    jobs: dict[UUID, Row]
    keys: dict[str, tuple[UUID, float]]
    workers: dict[UUID, float]


def _units(column: str) -> str:
    return f"round(CAST(extract(epoch FROM {column} - now()) AS float8) / {UNIT / 2}) / 2"


_JOBS = f"""
SELECT id, status, attempt, max_attempts, crashes, error->>'class', CAST(error->>'attempt' AS int4),
       CAST(result AS text), CAST(payload AS text), {_units("run_at")}, {_units("expires_at")},
       finished_at IS NOT NULL, retried_after
FROM jobs WHERE type <> '{WEBHOOK_TYPE}' ORDER BY id
"""
_OUTBOX = f"""
SELECT job_id, attempt, queue, priority, {_units("due_at")}, published, {_units("expires_at")}
FROM outbox WHERE job_id NOT IN (SELECT id FROM jobs WHERE type = '{WEBHOOK_TYPE}')
"""
_ATTEMPTS = """
SELECT job_id, attempt, worker_id, finished_at IS NULL, cancel_requested_at IS NOT NULL, outcome, error->>'class'
FROM attempts ORDER BY job_id, attempt
"""
_LETTERS = "SELECT job_id, class FROM dead_letters"
_EDITS = "SELECT job_id, attempt, CAST(payload_before AS text) FROM payload_edits ORDER BY job_id, attempt"
_TOLD = f"""
SELECT CAST(payload->>'job_id' AS uuid), CAST(payload->>'event' AS json)->>'type'
FROM jobs WHERE type = '{WEBHOOK_TYPE}'
"""
_KEYS = f"SELECT key, job_id, {_units('expires_at')} FROM idempotency_keys"
_WORKERS = f"SELECT id, {_units('heartbeat_at')} FROM workers"


async def read(conn: "asyncpg.Connection[Any]") -> Snapshot:
    """Every row there is, at one moment. A row that belongs to no job is an error of its own."""
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        jobs = await conn.fetch(_JOBS)
        outbox = _by_job(Waiting, await conn.fetch(_OUTBOX))
        attempts = _by_job(Attempt, await conn.fetch(_ATTEMPTS))
        letters = _by_job(str, await conn.fetch(_LETTERS))
        edits = _by_job(lambda *edit: edit, await conn.fetch(_EDITS))
        told = _by_job(str, await conn.fetch(_TOLD))
        keys = {row[0]: (row[1], row[2]) for row in await conn.fetch(_KEYS)}
        workers = {row[0]: row[1] for row in await conn.fetch(_WORKERS)}
    rows = {}
    for id, status, attempt, most, crashes, kind, failed, result, payload, run_at, expires, finished, retried in jobs:
        rows[id] = Row(
            status=status, attempt=attempt, max_attempts=most, crashes=crashes,
            error=None if kind is None else (kind, failed), result=result, payload=payload, run_at=run_at,
            expires=expires, finished=finished, retried_after=tuple(retried or ()), outbox=outbox[id],
            attempts=attempts[id], letters=letters[id], edits=edits[id], told=tuple(sorted(told[id])),
        )  # fmt: skip
    for name, found in (("outbox", outbox), ("attempts", attempts), ("dead_letters", letters), ("told", told)):
        assert found.keys() <= rows.keys(), f"{name} has a row of no job"
    return Snapshot(rows, keys, workers)


def _by_job(make: Any, rows: Iterable[Any]) -> defaultdict[UUID, tuple[Any, ...]]:
    found: defaultdict[UUID, tuple[Any, ...]] = defaultdict(tuple)
    for row in rows:
        found[row[0]] += (make(*row[1:]),)
    return found
