"""The processes of the service: their rows, and what the workers among them run.

A row here serves no queue and keeps no lease: for that a worker has its rows in `workers`, which name its process. Rows
of `workers` without a process are those of HTTP workers: one for each lease, and one for requests that wait.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.workers import ALIVE

Kind = Literal["api", "scheduler", "worker"]

PartOf = Literal["api", "dev"]
"""The command that keeps a process alive: `accepted api --workers N`, or `accepted dev`."""

SILENT = 35.0
"""Seconds without a heartbeat after which an API process or a scheduler counts as gone: it misses three. A worker is
there as long as its leases hold."""

MOST = 1000
"""Rows of a list. One ledger serves fewer processes."""

MOST_RUNNING = 20
"""Running jobs that are shown of one worker, the oldest first."""

_BEAT = Statement("""
INSERT INTO processes (id, kind, host, pid, version, part_of, started_at, queues, outcomes, loops)
VALUES (:id, :kind, :host, :pid, :version, :part_of, now() - CAST(:age AS float8) * interval '1 second',
        CAST(:queues AS text[]), CAST(:outcomes AS json), CAST(:loops AS json))
ON CONFLICT (id) DO UPDATE SET
    heartbeat_at = now(), queues = excluded.queues, outcomes = excluded.outcomes, loops = excluded.loops
RETURNING drain_requested_at IS NOT NULL AS draining
""")

_END = Statement("DELETE FROM processes WHERE id = :id")

HERE = f"""
    CASE WHEN p.kind = 'worker' THEN {ALIVE} ELSE p.heartbeat_at > now() - interval '{SILENT} seconds' END
"""
"""The condition on `processes p LEFT JOIN workers w` under which a process lives."""

_LIVE = Statement(f"""
SELECT p.id, p.kind, p.host, p.pid, p.version, p.part_of, p.started_at, p.drain_requested_at IS NOT NULL AS draining,
       COALESCE(w.heartbeat_at, p.heartbeat_at) AS heartbeat_at, p.queues, CAST(p.outcomes AS text) AS outcomes,
       CAST(p.loops AS text) AS loops, w.id AS lane, w.slots, w.types
FROM processes p LEFT JOIN workers w ON w.process = p.id
WHERE {HERE} AND (CAST(:id AS uuid) IS NULL OR p.id = CAST(:id AS uuid))
ORDER BY p.kind, p.started_at, p.id, w.id LIMIT {MOST}
""")

_HELD = Statement(f"""
SELECT * FROM (
    SELECT *, count(*) OVER (PARTITION BY lane) AS held, count(*) OVER (PARTITION BY lane, seen) AS jobs,
           row_number() OVER (PARTITION BY lane, seen ORDER BY started_at, id) AS place
    FROM (
        SELECT t.worker_id AS lane, j.id, j.type, j.queue, t.attempt, t.started_at,
               t.cancel_requested_at IS NOT NULL AS ending,
               CAST(:tenant AS text) IS NULL OR j.tenant = CAST(:tenant AS text) AS seen
        FROM attempts t JOIN jobs j ON j.id = t.job_id
        WHERE t.finished_at IS NULL AND t.worker_id = ANY(CAST(:lanes AS uuid[]))
    ) AS open
) AS counted
WHERE place <= CASE WHEN seen THEN {MOST_RUNNING} ELSE 1 END ORDER BY lane, place
""")
"""All of one moment: what is shown and what is counted agree."""

_OVER_HTTP = Statement(f"""
SELECT w.id, w.name, w.started_at, w.heartbeat_at, w.queues, w.types, w.slots, COALESCE(w.tenant, j.tenant) AS tenant,
       j.id AS job_id, j.type, j.queue, t.attempt, t.started_at AS attempt_started_at,
       t.cancel_requested_at IS NOT NULL AS ending
FROM workers w
LEFT JOIN attempts t ON t.worker_id = w.id AND t.finished_at IS NULL
LEFT JOIN jobs j ON j.id = t.job_id
WHERE w.process IS NULL AND {ALIVE}
  AND (CAST(:tenant AS text) IS NULL OR COALESCE(w.tenant, j.tenant) = CAST(:tenant AS text))
ORDER BY w.id LIMIT {MOST}
""")

_ASK_TO_DRAIN = Statement("""
UPDATE processes SET drain_requested_at = COALESCE(drain_requested_at, now()) WHERE id = :id AND part_of IS NULL
""")


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """What never changes about a process."""

    id: UUID
    kind: Kind
    host: str
    pid: int
    version: str
    part_of: PartOf | None = None


class LiveLane(msgspec.Struct, frozen=True, kw_only=True):
    """A live process with one of its lanes. All from `lane` on is None for a process that is no worker.

    `outcomes` and `loops` are JSON text.
    """

    id: UUID
    kind: Kind
    host: str
    pid: int
    version: str
    part_of: PartOf | None
    started_at: datetime
    heartbeat_at: datetime
    draining: bool
    queues: list[str]
    outcomes: str
    loops: str
    lane: UUID | None
    slots: int | None
    types: list[str] | None


class HeldJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that a lane has claimed; `seen`: it is of the tenant that was named, if one was.

    `held` is how many jobs the lane has claimed, `jobs` how many of them are `seen` as this one is.
    """

    lane: UUID
    id: UUID
    type: str
    queue: str
    attempt: int
    started_at: datetime
    ending: bool
    seen: bool
    held: int
    jobs: int


class LaneOverHttp(msgspec.Struct, frozen=True, kw_only=True):
    """The row of a lease or of waiting lease requests. All from `job_id` on is None for the latter."""

    id: UUID
    name: str
    started_at: datetime
    heartbeat_at: datetime
    queues: list[str] | None
    types: list[str] | None
    slots: int
    tenant: str | None
    job_id: UUID | None
    type: str | None
    queue: str | None
    attempt: int | None
    attempt_started_at: datetime | None
    ending: bool


async def beat(
    conn: Connection, process: Process, *, age: float, queues: Sequence[str], outcomes: str, loops: str
) -> bool:
    """Record that the process is alive, and what it says of itself. Returns whether it is asked to drain.

    It started `age` seconds ago. The first call inserts its row. The caller commits.
    """
    told = msgspec.structs.asdict(process)
    return bool(await _BEAT.value(conn, **told, age=age, queues=list(queues), outcomes=outcomes, loops=loops))


async def end(conn: Connection, process_id: UUID) -> None:
    """Delete the row of a process that ends. The caller commits."""
    await _END.run(conn, id=process_id)


async def live(conn: Connection, lease_ttl: float, process_id: UUID | None = None) -> list[LiveLane]:
    """The live processes by kind and age, workers once for each lane; of them all, or of the one with this id."""
    return [struct(LiveLane, row) for row in await _LIVE.rows(conn, lease_ttl=lease_ttl, id=process_id)]


async def held(conn: Connection, lanes: Sequence[UUID], tenant: str | None) -> list[HeldJob]:
    """Of each lane the oldest `MOST_RUNNING` jobs of `tenant` (None: of all), and one of others if it holds any."""
    return [struct(HeldJob, row) for row in await _HELD.rows(conn, lanes=list(lanes), tenant=tenant)]


async def over_http(conn: Connection, lease_ttl: float, tenant: str | None) -> list[LaneOverHttp]:
    """The rows of live HTTP workers, of one tenant or of all."""
    return [struct(LaneOverHttp, row) for row in await _OVER_HTTP.rows(conn, lease_ttl=lease_ttl, tenant=tenant)]


async def ask_to_drain(conn: Connection, process_id: UUID) -> None:
    """Ask a process to drain; once asked, it stays asked. The caller announces it, and commits."""
    await _ASK_TO_DRAIN.run(conn, id=process_id)
