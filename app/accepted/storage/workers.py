"""Workers: which are alive, and which open attempts have lost theirs."""

from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from accepted.domain.ids import AFTER_ALL, BEFORE_ALL
from accepted.domain.retry import Retry, read_policy
from accepted.domain.transitions import RunningAttempt
from accepted.storage.db.statements import Connection, Row, Statement

_HEARTBEAT = Statement("""
INSERT INTO workers (id, name, slots, queues, types, tenant, blocked, process)
VALUES (:id, :name, :slots, CAST(:queues AS text[]), CAST(:types AS text[]), :tenant, :blocked, :process)
ON CONFLICT (id) DO UPDATE SET
    heartbeat_at = now(), slots = excluded.slots, queues = excluded.queues, types = excluded.types,
    blocked = excluded.blocked
""")

ALIVE = "w.heartbeat_at > now() - CAST(:lease_ttl AS float8) * interval '1 second'"
"""The condition on `workers w` under which its leases hold: a heartbeat in the last `lease_ttl` seconds."""


def serves(queue: str) -> str:
    """The condition on `workers w` under which it serves the queue of this name, an SQL expression.

    `accepted.storage.queues.served_by` is the same rule. A tenant's own types count for nothing: they would take the
    queue away from the jobs of others.
    """
    return f"""(
    {queue} = ANY(w.queues) OR w.queues IS NULL AND (
        EXISTS (SELECT 1 FROM queues q WHERE q.name = {queue} AND NOT q.dedicated)
        OR NOT EXISTS (SELECT 1 FROM job_types y WHERE y.tenant = '' AND y.queue = {queue})
        OR EXISTS (SELECT 1 FROM job_types y
                   WHERE y.tenant = '' AND y.queue = {queue} AND (w.types IS NULL OR y.name = ANY(w.types)))
    )
)"""


SERVES = serves(":queue")


def type_of(job: str) -> str:
    """The relation `y`, to be joined ON true: the type of a row with `type` and `tenant`, its tenant's own or shared.

    `accepted.services.job_type_cache` looks types up by the same rule.
    """
    return f"""LATERAL (
    SELECT * FROM job_types k WHERE k.name = {job}.type AND k.tenant IN ('', {job}.tenant)
    ORDER BY k.tenant DESC LIMIT 1
) AS y"""


_RETIRE = Statement("DELETE FROM workers WHERE id = :id")

RUNNING_ATTEMPT = """
    t.job_id, t.attempt, t.worker_id, j.max_attempts, j.crashes, CAST(j.retry AS text) AS retry,
    y.max_attempts AS type_max_attempts, y.schedule AS type_schedule, y.jitter AS type_jitter
"""
"""The select list for `running_attempt`, of `attempts t`, `jobs j` and the type `y` of the job."""

_OPEN_ATTEMPTS = f"""
SELECT {RUNNING_ATTEMPT}
FROM {{source}}
JOIN jobs j ON j.id = t.job_id
LEFT JOIN {type_of("j")} ON true
WHERE t.finished_at IS NULL AND {{condition}}
ORDER BY t.job_id LIMIT :limit
"""

_OPEN_ATTEMPTS_OF = Statement(
    _OPEN_ATTEMPTS.format(source="attempts t", condition="t.worker_id = ANY(CAST(:ids AS uuid[]))")
)

_OF_NO_LIVE_WORKER = f"""(
    SELECT COALESCE(lag(id) OVER (ORDER BY id), '{BEFORE_ALL}') AS after,
           COALESCE(id, '{AFTER_ALL}') AS before
    FROM (SELECT id FROM workers w WHERE {ALIVE} UNION ALL SELECT NULL) AS alive
) AS gap CROSS JOIN LATERAL (
    SELECT * FROM attempts WHERE finished_at IS NULL AND worker_id > gap.after AND worker_id < gap.before OFFSET 0
) AS t"""
"""Open attempts, by the ranges of ids between those of live workers: what these have done is not looked at. OFFSET 0
keeps PostgreSQL from reading all attempts first."""

_ABANDONED = Statement(_OPEN_ATTEMPTS.format(source=_OF_NO_LIVE_WORKER, condition="true"))

_RUNNING_ATTEMPTS_OF = Statement(
    _OPEN_ATTEMPTS.format(
        source="attempts t",
        condition="t.worker_id = :id AND t.started_at < now() - CAST(:older_than AS float8) * interval '1 second'",
    )
)


async def heartbeat(
    conn: Connection,
    worker_id: UUID,
    name: str,
    *,
    slots: int = 0,
    queues: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    tenant: str | None = None,
    blocked: str | None = None,
    process: UUID | None = None,
) -> None:
    """Record that this worker is alive, which keeps its leases for another `LEASE_TTL`. The caller commits.

    The worker has `slots` in all and serves `queues`, `types` and `tenant`; None means all. `blocked` is JSON text:
    what blocks its event loop, if anything does. The first call inserts it. Without a `process` of the service
    (`accepted.storage.monitoring.processes`) it is an HTTP worker.
    """
    await _HEARTBEAT.run(
        conn, id=worker_id, name=name, slots=slots, queues=_list(queues), types=_list(types), tenant=tenant,
        blocked=blocked, process=process,
    )  # fmt: skip


async def retire(conn: Connection, worker_id: UUID) -> None:
    """Delete a worker that has stopped: what it still ran, if anything, is rescued at once. The caller commits."""
    await _RETIRE.run(conn, id=worker_id)


async def abandoned(conn: Connection, lease_ttl: float, limit: int) -> list[RunningAttempt]:
    """Up to `limit` open attempts whose worker sent no heartbeat for `lease_ttl` seconds, or is unknown."""
    return [running_attempt(row) for row in await _ABANDONED.rows(conn, lease_ttl=lease_ttl, limit=limit)]


async def open_attempts(conn: Connection, worker_ids: Sequence[UUID]) -> list[RunningAttempt]:
    """Every open attempt of these workers."""
    found = await _OPEN_ATTEMPTS_OF.rows(conn, ids=list(worker_ids), limit=None)
    return [running_attempt(row) for row in found]


async def running_attempts_of(conn: Connection, worker_id: UUID, older_than: float, limit: int) -> list[RunningAttempt]:
    """Up to `limit` open attempts of this worker that began more than `older_than` seconds ago."""
    found = await _RUNNING_ATTEMPTS_OF.rows(conn, id=worker_id, older_than=older_than, limit=limit)
    return [running_attempt(row) for row in found]


def running_attempt(row: Row) -> RunningAttempt:
    """The attempt of a row of `RUNNING_ATTEMPT`."""
    return RunningAttempt(
        job_id=row["job_id"],
        attempt=row["attempt"],
        worker_id=row["worker_id"],
        max_attempts=row["max_attempts"],
        crashes=row["crashes"],
        retry=_policy(row),
    )


def _policy(row: Row) -> Retry:
    """The job's own policy, else that of its type, else the default. Each is left out if it cannot be used."""
    of_type = Retry()
    if row["type_schedule"] is not None:
        with suppress(ValueError):
            of_type = Retry(row["type_max_attempts"], tuple(row["type_schedule"]), row["type_jitter"])
    return of_type if row["retry"] is None else read_policy(row["retry"], of_type)


def _list(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)
