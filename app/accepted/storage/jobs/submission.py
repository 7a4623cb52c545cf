"""Accepting jobs: one statement for a batch writes the idempotency keys, the jobs and their outbox rows.

The columns are those of `accepted.domain.job.NewJob`, with its defaults: a field that is added there, and as a column
of `jobs`, is written without a change here.
"""

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec.structs import FieldInfo, fields
from sqlalchemy.dialects import postgresql

from accepted.domain.job import NewJob
from accepted.storage.db.job_tables import jobs
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.jobs import metadata_index
from accepted.storage.jobs.idempotency import REMEMBER
from accepted.storage.jobs.reading import JSON_COLUMNS
from accepted.storage.queues import LIMITED, NOTIFY_LIMITER, mark_limited

_encoder = msgspec.json.Encoder()


class Entry(msgspec.Struct, frozen=True):
    """One member of a batch: the job, with the idempotency key and fingerprint of its submission, if any.

    `handoff`: seconds for which the submitter publishes the job itself, before the relay takes over. None: outbox rows
    are written as published, because the ledger is the broker.
    """

    job: NewJob
    key: str | None = None
    fingerprint: bytes | None = None
    handoff: float | None = None


class Accepted(msgspec.Struct, frozen=True):
    """What the ledger decided about a new job, by its own clock. `on_hold`: its queue has no room for it yet."""

    status: str
    created_at: datetime
    run_at: datetime
    on_hold: bool = False


def _definition(name: str) -> str:
    """A column of the JSON records in which jobs go to the ledger: JSON as text, all else as in `jobs`."""
    if name == "delay":
        return "delay float8"
    kind = "text" if name in JSON_COLUMNS else jobs.c[name].type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    return f"{name} {kind}"


def _value(field: FieldInfo) -> str:
    """What is written for a field: its value, or its default, which is not sent."""
    value = f"CAST({field.name} AS json)" if field.name in JSON_COLUMNS else field.name
    if field.name != "run_at" and field.default not in (None, msgspec.NODEFAULT):
        value = f"COALESCE({value}, {_literal(field.default)})"
    return f"CASE WHEN callback_url IS NOT NULL THEN {value} END" if field.name == "callback_events" else value


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"'{{{','.join(value)}}}'"
    return f"'{value}'" if isinstance(value, str) else str(value).lower()


_FIELDS = [field for field in fields(NewJob) if field.name != "unique"]
"""What is sent; unique keys have a table of their own (`accepted.storage.jobs.uniqueness`)."""

_WRITTEN = [field for field in _FIELDS if field.name != "delay"]
_DEFINITIONS = ", ".join(_definition(field.name) for field in _FIELDS)
_NAMES = ", ".join("asked_run_at" if field.name == "run_at" else field.name for field in _FIELDS)
_DEFAULTS = {field.name: _value(field) for field in _WRITTEN}

_ACCEPT = f"""
WITH input AS MATERIALIZED (
    SELECT i.*, COALESCE(i.asked_run_at, now() + i.delay * interval '1 second', now()) > now() AS later
    FROM ROWS FROM (
        json_to_recordset(CAST(:jobs AS json)) AS ({_DEFINITIONS}),
        unnest(CAST(:keys AS text[])), unnest(CAST(:fingerprints AS bytea[])), unnest(CAST(:handoffs AS float8[]))
    ) AS i({_NAMES}, key, fingerprint, handoff)
), remembered AS ({REMEMBER.format(rows="input")}
), accepted AS MATERIALIZED (
    SELECT input.*,
        CASE WHEN blockers > 0 THEN 'blocked' WHEN later THEN 'scheduled' ELSE 'queued' END AS status,
        CASE WHEN later THEN COALESCE(asked_run_at, now() + delay * interval '1 second') ELSE now() END AS run_at,
        COALESCE(blockers, 0) = 0 AND NOT later AND queue = ANY({LIMITED}) AS on_hold
    FROM input WHERE key IS NULL OR id IN (SELECT job_id FROM remembered)
), written AS (
    INSERT INTO jobs (status, {", ".join(_DEFAULTS)})
    SELECT status, {", ".join(_DEFAULTS.values())} FROM accepted
), queued AS (
    INSERT INTO outbox (
        job_id, attempt, tenant, queue, priority, due_at, published, on_hold, expires_at, concurrency_key
    )
    SELECT id, 0, tenant, queue, {_DEFAULTS["priority"]},
           CASE status WHEN 'blocked' THEN 'infinity' WHEN 'scheduled' THEN run_at
                       ELSE now() + CASE WHEN on_hold THEN 0 ELSE COALESCE(handoff, 0) END * interval '1 second' END,
           status = 'queued' AND handoff IS NULL AND NOT on_hold, on_hold OR status = 'blocked', expires_at,
           concurrency_key
    FROM accepted
)
"""
_ANSWER = f"""
SELECT id, status, now() AS created_at, run_at, CASE WHEN on_hold THEN {NOTIFY_LIMITER} ELSE false END AS on_hold
FROM accepted
"""
_INSERT = Statement(_ACCEPT + _ANSWER)
"""One statement, because it is a transaction of its own on the hot path: PostgreSQL commits it before it answers, and
only the answer lets a 202 out. Jobs of limited queues are put on hold, and the limiter is notified, by the same
statement: other jobs pay nothing for it.
"""

_INSERT_INDEXED = Statement(f"{_ACCEPT}, indexed AS ({metadata_index.ADD.format(rows='accepted')}) {_ANSWER}")
"""For a batch in which a job has metadata."""

_COUNT_DESCENDANTS = Statement("""
WITH root AS MATERIALIZED (
    SELECT id, descendants FROM jobs WHERE id = :root FOR NO KEY UPDATE
), counted AS (
    UPDATE jobs j SET descendants = j.descendants + :more FROM root
    WHERE j.id = root.id AND root.descendants + :more <= :limit
    RETURNING j.id
)
SELECT NOT EXISTS (SELECT 1 FROM root) OR EXISTS (SELECT 1 FROM counted)
""")


async def insert(conn: Connection, batch: list[Entry], idempotency_ttl: float) -> dict[UUID, Accepted]:
    """Insert the new jobs of `batch`. Members that are missing in the answer had a key that is remembered already.

    The keys within a batch must differ. The caller commits. The jobs travel as one JSON text without their defaults,
    because an array for each column costs the driver more than the rest of the batch.
    """
    if ordered := {entry.job.queue for entry in batch if entry.job.ordered}:
        await mark_limited(conn, ordered)
    statement = _INSERT_INDEXED if any(entry.job.metadata != "{}" for entry in batch) else _INSERT
    rows = await statement.rows(
        conn,
        jobs=_encoder.encode([entry.job for entry in batch]).decode(),
        keys=[entry.key for entry in batch],
        fingerprints=[entry.fingerprint for entry in batch],
        handoffs=[entry.handoff for entry in batch],
        ttl=float(idempotency_ttl),
    )
    return {row["id"]: Accepted(row["status"], row["created_at"], row["run_at"], row["on_hold"]) for row in rows}


async def count_descendants(conn: Connection, root: UUID, more: int, limit: int) -> bool:
    """Count `more` jobs under this root, on the root's row. False: they would exceed `limit`, and nothing is counted.

    A root that is past its retention counts no more. The caller commits; until then other transactions of this root
    wait.
    """
    return bool(await _COUNT_DESCENDANTS.value(conn, root=root, more=more, limit=limit))
