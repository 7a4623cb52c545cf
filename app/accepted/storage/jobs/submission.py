"""Accepting jobs: one statement inserts the idempotency records, the jobs and their outbox rows, for a whole batch.

Which keys were new is decided by the unique index on (tenant, key), never by looking first. A key that is past
its time is taken over in the same statement. Rows are locked in key order, so two batches cannot deadlock.

How many jobs have grown from one root: counted on the root's own row.
"""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.job import DEFAULT_PRIORITY, END_EVENTS, NewJob
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.queues import LIMITED, NAMED, NOTIFY, mark_limited

_encoder = msgspec.json.Encoder()


class Entry(msgspec.Struct, frozen=True):
    """One member of a batch: the job, and the idempotency key and fingerprint it came with, if any.

    `handoff` is in seconds: for so long the submitter itself sees to publishing, then the relay takes over.
    None: the ledger is the broker, and the row is published as it is written.
    """

    job: NewJob
    key: str | None = None
    fingerprint: bytes | None = None
    handoff: float | None = None


class Accepted(msgspec.Struct, frozen=True):
    """What the ledger decided about a new job, by its own clock; `held`: ready, and kept back until there is room."""

    status: str
    created_at: datetime
    run_at: datetime
    held: bool = False


class Remembered(msgspec.Struct, frozen=True):
    """An idempotency record that was there before: the first body's fingerprint and its job."""

    fingerprint: bytes
    job_id: UUID
    duplicate: bool = False


_INSERT = Statement(f"""
WITH input AS MATERIALIZED (
    SELECT i.*, COALESCE(i.asked_run_at, now() + i.delay * interval '1 second', now()) > now() AS later
    FROM ROWS FROM (
        json_to_recordset(CAST(:jobs AS json)) AS (
            id uuid, tenant text, type text, queue text, payload text, priority int2, max_attempts int4, retry text,
            timeout float8, run_at timestamptz, delay float8, expires_at timestamptz, callback_url text,
            callback_events text[], tags text[], metadata text, traceparent text, parent_id uuid, root_id uuid,
            depth int2, concurrency_key text, ordering_key text, batch_id uuid, ref text, blockers int4,
            has_dependents bool
        ),
        unnest(CAST(:keys AS text[])), unnest(CAST(:fingerprints AS bytea[])), unnest(CAST(:handoffs AS float8[]))
    ) AS i(id, tenant, type, queue, payload, priority, max_attempts, retry, timeout, asked_run_at, delay, expires_at,
           callback_url, callback_events, tags, metadata, traceparent, parent_id, root_id, depth, concurrency_key,
           ordering_key, batch_id, ref, blockers, has_dependents, key, fingerprint, handoff)
), remembered AS (
    INSERT INTO idempotency_keys AS k (tenant, key, fingerprint, job_id, expires_at)
    SELECT tenant, key, fingerprint, id, now() + CAST(:ttl AS float8) * interval '1 second'
    FROM input WHERE key IS NOT NULL ORDER BY tenant, key
    ON CONFLICT (tenant, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, expires_at = excluded.expires_at,
            duplicate = false
        WHERE k.expires_at <= now()
    RETURNING job_id
), accepted AS MATERIALIZED (
    SELECT input.*,
        CASE WHEN blockers > 0 THEN 'blocked' WHEN later THEN 'scheduled' ELSE 'queued' END AS status,
        CASE WHEN later THEN COALESCE(asked_run_at, now() + delay * interval '1 second') ELSE now() END AS run_at,
        COALESCE(blockers, 0) = 0 AND NOT later AND queue = ANY({LIMITED}) AS held
    FROM input WHERE key IS NULL OR id IN (SELECT job_id FROM remembered)
), written AS (
    INSERT INTO jobs (id, tenant, type, queue, status, priority, max_attempts, retry, timeout, payload, tags,
                      metadata, callback_url, callback_events, traceparent, run_at, expires_at, parent_id, root_id,
                      depth, concurrency_key, ordering_key, batch_id, ref, blockers, has_dependents)
    SELECT id, tenant, type, queue, status, COALESCE(priority, {DEFAULT_PRIORITY}), max_attempts, CAST(retry AS json),
           timeout, CAST(payload AS json), COALESCE(tags, '{{}}'), COALESCE(CAST(metadata AS json), '{{}}'),
           callback_url,
           CASE WHEN callback_url IS NOT NULL THEN COALESCE(callback_events, CAST(:end_events AS text[])) END,
           traceparent, run_at, expires_at, parent_id, root_id, COALESCE(depth, 0), concurrency_key,
           ordering_key, batch_id, ref, COALESCE(blockers, 0), COALESCE(has_dependents, false)
    FROM accepted
), queued AS (
    INSERT INTO outbox (job_id, attempt, queue, priority, due_at, published, held, expires_at, concurrency_key)
    SELECT id, 0, queue, COALESCE(priority, {DEFAULT_PRIORITY}),
           CASE status WHEN 'blocked' THEN 'infinity' WHEN 'scheduled' THEN run_at
                       ELSE now() + CASE WHEN held THEN 0 ELSE COALESCE(handoff, 0) END * interval '1 second' END,
           status = 'queued' AND handoff IS NULL AND NOT held, held OR status = 'blocked', expires_at, concurrency_key
    FROM accepted
)
SELECT id, status, now() AS created_at, run_at, CASE WHEN held THEN {NOTIFY} ELSE false END
FROM accepted
""")
"""Jobs of limited queues are held, and the same statement notifies the limiter. A job that is not held pays nothing."""


_REMEMBER = Statement("""
INSERT INTO idempotency_keys AS k (tenant, key, fingerprint, job_id, expires_at)
SELECT i.tenant, i.key, i.fingerprint, i.job_id, now() + CAST(:ttl AS float8) * interval '1 second'
FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[]), CAST(:fingerprints AS bytea[]), CAST(:ids AS uuid[]))
    AS i(tenant, key, fingerprint, job_id)
ORDER BY i.tenant, i.key
ON CONFLICT (tenant, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, expires_at = excluded.expires_at,
            duplicate = false
    WHERE k.expires_at <= now()
RETURNING job_id
""")

_REDIRECT = Statement("""
UPDATE idempotency_keys k SET job_id = n.job_id, duplicate = true
FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[]), CAST(:ids AS uuid[])) AS n(tenant, key, job_id)
WHERE k.tenant = n.tenant AND k.key = n.key
""")

_RECALL = Statement("""
SELECT k.tenant, k.key, k.fingerprint, k.job_id, k.duplicate
FROM idempotency_keys k
JOIN unnest(CAST(:tenants AS text[]), CAST(:keys AS text[])) AS wanted(tenant, key) USING (tenant, key)
""")

_ANNOUNCE_QUEUES = Statement(f"""
WITH named AS (
    INSERT INTO queues AS q (name, dedicated)
    SELECT n.name, EXISTS (SELECT 1 FROM job_types y WHERE y.queue = n.name)
    FROM unnest(CAST(:names AS text[])) AS n(name)
    ON CONFLICT (name) DO UPDATE SET dedicated = excluded.dedicated WHERE q.dedicated IS NULL RETURNING name
)
SELECT pg_notify('{NAMED}', '') FROM named LIMIT 1
""")


async def insert(conn: Connection, batch: list[Entry], idempotency_ttl: float) -> dict[UUID, Accepted]:
    """Insert what is new in `batch`; the members that are missing from the answer met a remembered key.

    The keys within one batch must differ. The caller commits. The jobs travel as one JSON text: an array for each
    column cost the driver more than all the rest of a batch. What has its default does not travel at all.
    """
    if ordered := {entry.job.queue for entry in batch if entry.job.ordered}:
        await mark_limited(conn, ordered)
    rows = await _INSERT.rows(
        conn,
        jobs=_encoder.encode([entry.job for entry in batch]).decode(),
        keys=[entry.key for entry in batch],
        fingerprints=[entry.fingerprint for entry in batch],
        handoffs=[entry.handoff for entry in batch],
        end_events=END_EVENTS,
        ttl=float(idempotency_ttl),
    )
    return {row[0]: Accepted(row[1], row[2], row[3], row[4]) for row in rows}


async def remember(conn: Connection, batch: list[Entry], idempotency_ttl: float) -> list[NewJob]:
    """Write the idempotency records alone. Returns the jobs that are to be inserted by it: those whose key is new.

    For whoever has to know that before he inserts them, with `Entry(job)`, in the same transaction.
    """
    keyed = [entry for entry in batch if entry.key is not None]
    rows = await _REMEMBER.rows(
        conn,
        tenants=[entry.job.tenant for entry in keyed],
        keys=[entry.key for entry in keyed],
        fingerprints=[entry.fingerprint for entry in keyed],
        ids=[entry.job.id for entry in keyed],
        ttl=float(idempotency_ttl),
    )
    new = {row[0] for row in rows}
    return [entry.job for entry in batch if entry.key is None or entry.job.id in new]


async def redirect(conn: Connection, keys: Mapping[tuple[str, str], UUID]) -> None:
    """Let these (tenant, key) records, written in this transaction, stand for jobs that were there before."""
    await _REDIRECT.rows(conn, tenants=[k[0] for k in keys], keys=[k[1] for k in keys], ids=list(keys.values()))


async def recall(conn: Connection, keys: list[tuple[str, str]]) -> dict[tuple[str, str], Remembered]:
    """The records of these (tenant, key) pairs."""
    found = await _RECALL.rows(conn, tenants=[k[0] for k in keys], keys=[k[1] for k in keys])
    return {(row[0], row[1]): Remembered(row[2], row[3], row[4]) for row in found}


async def announce_queues(conn: Connection, names: list[str]) -> None:
    """Make these queues known; workers look at once if one is new. Names are sorted: two batches cannot deadlock.

    With its first job a queue becomes that of workers with the types whose default it is by then; or else everybody's,
    whatever types come to call it their default.
    """
    await _ANNOUNCE_QUEUES.rows(conn, names=sorted(names))


_COUNT = text("""
WITH root AS MATERIALIZED (
    SELECT id, descendants FROM jobs WHERE id = :root FOR NO KEY UPDATE
), counted AS (
    UPDATE jobs j SET descendants = j.descendants + :more FROM root
    WHERE j.id = root.id AND root.descendants + :more <= :limit
    RETURNING j.id
)
SELECT NOT EXISTS (SELECT 1 FROM root) OR EXISTS (SELECT 1 FROM counted)
""")


async def count_descendants(conn: AsyncConnection, root: UUID, more: int, limit: int) -> bool:
    """Count `more` jobs under this root; False, and nothing is counted, when they would be over `limit`.

    A root that is past its retention counts no more. The caller commits; until then others of this root wait.
    """
    return bool((await conn.execute(_COUNT, {"root": root, "more": more, "limit": limit})).scalar_one())
