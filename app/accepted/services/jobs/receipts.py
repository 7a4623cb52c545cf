"""Submissions and their receipts: how each member of a committed batch is answered."""

from typing import NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from accepted.domain.job import Job, NewJob
from accepted.domain.references import JobRef
from accepted.errors import Gone, KeyReused, LedgerUnavailable
from accepted.metrics import SUBMISSIONS_REPLAYED
from accepted.storage.db.statements import Connection
from accepted.storage.jobs import submission as ledger
from accepted.storage.jobs.reading import jobs_by_id
from accepted.storage.jobs.submission import Accepted


class Recalled(NamedTuple):
    """What an idempotency key stands for: the first body's fingerprint, and its job, unless that was pruned.

    `duplicate`: that job was another's, with the same unique key.
    """

    fingerprint: bytes
    job: Job | None
    duplicate: bool


Known: TypeAlias = dict[tuple[str, str], Recalled]
"""By tenant and idempotency key."""


class Submission(msgspec.Struct, frozen=True):
    """What a client asks for: a job, and the idempotency key that came with it, with the body's fingerprint."""

    job: NewJob
    key: str | None = None
    fingerprint: bytes | None = None


class Receipt(msgspec.Struct, frozen=True):
    """A job that is in the ledger. `replayed`: by an earlier try of this; `duplicate`: another of its unique key."""

    job: Job
    replayed: bool = False
    duplicate: bool = False

    @property
    def new(self) -> bool:
        return not (self.replayed or self.duplicate)


async def recall(conn: Connection, keys: set[tuple[str, str]]) -> Known:
    """What these (tenant, key) pairs stand for."""
    records = await ledger.recall(conn, sorted(keys))
    jobs = await jobs_by_id(conn, [record.job_id for record in records.values()])
    return {
        key: Recalled(record.fingerprint, jobs.get(record.job_id), record.duplicate) for key, record in records.items()
    }


def first_of_each_key(batch: list[Submission]) -> list[Submission]:
    """One member for each key: the others of that key are answered from what becomes of it."""
    first: dict[object, Submission] = {}
    for one in batch:
        first.setdefault(one.job.id if one.key is None else (one.job.tenant, one.key), one)
    return list(first.values())


def answer(one: Submission, accepted: dict[UUID, Accepted], remembered: Known) -> Receipt | Exception:
    """For one member of a batch of which `accepted` was inserted; `remembered` is what its other keys stand for."""
    made = accepted.get(one.job.id)
    if made is not None:
        return Receipt(_as_accepted(one.job, made))
    record = remembered.get((one.job.tenant, one.key or ""))
    if record is None:
        return LedgerUnavailable("the record of this key was being pruned")
    fingerprint, job, duplicate = record
    if fingerprint != one.fingerprint:
        return KeyReused("this Idempotency-Key was used before with another body")
    if job is None:
        return Gone("the job of this Idempotency-Key is past its retention")
    SUBMISSIONS_REPLAYED.inc()
    return Receipt(job, replayed=True, duplicate=duplicate)


def _as_accepted(job: NewJob, made: Accepted) -> Job:
    """The row as it was just written, without reading it back."""
    return Job(
        id=job.id, tenant=job.tenant, type=job.type, queue=job.queue, status=made.status, priority=job.priority,
        attempt=0, max_attempts=job.max_attempts, payload=job.payload, tags=list(job.tags), metadata=job.metadata,
        created_at=made.created_at, run_at=made.run_at, expires_at=job.expires_at, ordering_key=job.ordering_key,
    )  # fmt: skip


def is_ready(made: Accepted | None) -> bool:
    return made is not None and made.status == "queued" and not made.held


def ref(job: NewJob) -> JobRef:
    return JobRef(job.id, 0, job.queue, job.type, job.priority, job.traceparent)
