"""Accepting jobs: one statement inserts the idempotency records, the jobs and their outbox rows, for a whole batch.

Which keys were new is decided by the unique index on (tenant, key), never by looking first. A key that is past
its time is taken over in the same statement. Rows are locked in key order, so two batches cannot deadlock.
"""

from datetime import datetime
from uuid import UUID

import msgspec

from app.domain.job import END_EVENTS, NewJob
from app.storage.direct import Connection, Statement


class Entry(msgspec.Struct, frozen=True):
    """One member of a batch: the job, and the idempotency key and fingerprint it came with, if any.

    `handoff` is in seconds: for so long the submitter itself sees to publishing, then the relay takes over.
    None says that being in the outbox is being on the road, so that the row is published as it is written.
    """

    job: NewJob
    key: str | None = None
    fingerprint: bytes | None = None
    handoff: float | None = None


class Accepted(msgspec.Struct, frozen=True):
    """What the ledger decided about a new job, by its own clock."""

    status: str
    created_at: datetime
    run_at: datetime


class Remembered(msgspec.Struct, frozen=True):
    """An idempotency record that was there before: the first body's fingerprint and its job."""

    fingerprint: bytes
    job_id: UUID


_INSERT = Statement("""
WITH input AS MATERIALIZED (
    SELECT i.*, COALESCE(i.asked_run_at, now() + i.delay * interval '1 second', now()) > now() AS later
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:tenants AS text[]), CAST(:keys AS text[]), CAST(:fingerprints AS bytea[]),
        CAST(:handoffs AS float8[]), CAST(:types AS text[]), CAST(:queues AS text[]), CAST(:priorities AS int2[]),
        CAST(:max_attempts AS int4[]), CAST(:retries AS text[]), CAST(:timeouts AS float8[]),
        CAST(:payloads AS text[]), CAST(:tags AS text[]), CAST(:metadatas AS text[]),
        CAST(:callback_urls AS text[]), CAST(:callback_events AS text[]), CAST(:traceparents AS text[]),
        CAST(:run_ats AS timestamptz[]), CAST(:delays AS float8[]), CAST(:expires_ats AS timestamptz[]),
        CAST(:parent_ids AS uuid[]), CAST(:root_ids AS uuid[]), CAST(:depths AS int2[])
    ) AS i(id, tenant, key, fingerprint, handoff, type, queue, priority, max_attempts, retry, timeout,
           payload, tags, metadata, callback_url, callback_events, traceparent, asked_run_at, delay, expires_at,
           parent_id, root_id, depth)
), remembered AS (
    INSERT INTO idempotency_keys AS k (tenant, key, fingerprint, job_id, expires_at)
    SELECT tenant, key, fingerprint, id, now() + CAST(:ttl AS float8) * interval '1 second'
    FROM input WHERE key IS NOT NULL ORDER BY tenant, key
    ON CONFLICT (tenant, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, expires_at = excluded.expires_at
        WHERE k.expires_at <= now()
    RETURNING job_id
), accepted AS MATERIALIZED (
    SELECT input.*, CASE WHEN later THEN 'scheduled' ELSE 'queued' END AS status,
        CASE WHEN later THEN COALESCE(asked_run_at, now() + delay * interval '1 second') ELSE now() END AS run_at
    FROM input WHERE key IS NULL OR id IN (SELECT job_id FROM remembered)
), written AS (
    INSERT INTO jobs (id, tenant, type, queue, status, priority, max_attempts, retry, timeout, payload, tags,
                      metadata, callback_url, callback_events, traceparent, run_at, expires_at, parent_id, root_id,
                      depth)
    SELECT id, tenant, type, queue, status, priority, max_attempts, CAST(retry AS json), timeout,
           CAST(payload AS json), CAST(tags AS text[]), CAST(metadata AS json), callback_url,
           CAST(callback_events AS text[]), traceparent, run_at, expires_at, parent_id, root_id, depth
    FROM accepted
), on_the_road AS (
    INSERT INTO outbox (job_id, attempt, queue, priority, due_at, published, expires_at)
    SELECT id, 0, queue, priority,
           CASE WHEN later THEN run_at ELSE now() + COALESCE(handoff, 0) * interval '1 second' END,
           NOT later AND handoff IS NULL, expires_at
    FROM accepted
)
SELECT id, status, now() AS created_at, run_at FROM accepted
""")

_RECALL = Statement("""
SELECT k.tenant, k.key, k.fingerprint, k.job_id
FROM idempotency_keys k
JOIN unnest(CAST(:tenants AS text[]), CAST(:keys AS text[])) AS wanted(tenant, key) USING (tenant, key)
""")

_ANNOUNCE_QUEUES = Statement("INSERT INTO queues (name) SELECT unnest(CAST(:names AS text[])) ON CONFLICT DO NOTHING")


async def insert(conn: Connection, batch: list[Entry], idempotency_ttl: float) -> dict[UUID, Accepted]:
    """Insert what is new in `batch`; the members that are missing from the answer met a remembered key.

    The keys within one batch must differ. The caller commits.
    """
    rows = await _INSERT.rows(conn, ttl=float(idempotency_ttl), **_columns(batch))
    return {row[0]: Accepted(row[1], row[2], row[3]) for row in rows}


async def recall(conn: Connection, keys: list[tuple[str, str]]) -> dict[tuple[str, str], Remembered]:
    """The records of these (tenant, key) pairs."""
    found = await _RECALL.rows(conn, tenants=[k[0] for k in keys], keys=[k[1] for k in keys])
    return {(row[0], row[1]): Remembered(row[2], row[3]) for row in found}


async def announce_queues(conn: Connection, names: list[str]) -> None:
    """Make these queues known to workers and operators. Names are sorted, so that two batches cannot deadlock."""
    await _ANNOUNCE_QUEUES.rows(conn, names=sorted(names))


def _columns(batch: list[Entry]) -> dict[str, object]:
    jobs = [entry.job for entry in batch]
    return {
        "ids": [j.id for j in jobs],
        "tenants": [j.tenant for j in jobs],
        "keys": [e.key for e in batch],
        "fingerprints": [e.fingerprint for e in batch],
        "handoffs": [e.handoff for e in batch],
        "types": [j.type for j in jobs],
        "queues": [j.queue for j in jobs],
        "priorities": [j.priority for j in jobs],
        "max_attempts": [j.max_attempts for j in jobs],
        "retries": [j.retry for j in jobs],
        "timeouts": [j.timeout for j in jobs],
        "payloads": [j.payload for j in jobs],
        "tags": [_array(j.tags) for j in jobs],
        "metadatas": [j.metadata for j in jobs],
        "callback_urls": [j.callback_url for j in jobs],
        "callback_events": [_events(j) for j in jobs],
        "traceparents": [j.traceparent for j in jobs],
        "run_ats": [j.run_at for j in jobs],
        "delays": [j.delay for j in jobs],
        "expires_ats": [j.expires_at for j in jobs],
        "parent_ids": [j.parent_id for j in jobs],
        "root_ids": [j.root_id for j in jobs],
        "depths": [j.depth for j in jobs],
    }


def _events(job: NewJob) -> str | None:
    """None, and so no column at all, for the many jobs that want no webhook."""
    if job.callback_url is None:
        return None
    return _ALL_EVENTS if job.callback_events is END_EVENTS else _array(job.callback_events)


def _array(items: tuple[str, ...]) -> str:
    """A PostgreSQL array literal: unnest() flattens nested arrays, so a list of lists travels as text."""
    if not items:
        return "{}"
    quoted = ('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items)
    return "{" + ",".join(quoted) + "}"


_ALL_EVENTS = _array(END_EVENTS)
