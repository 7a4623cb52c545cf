"""Workers as the ledger knows them: who is alive, and which attempts nobody keeps alive any more."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.retry import Retry
from accepted.domain.transitions import RunningAttempt

_HEARTBEAT = text("""
INSERT INTO workers (id, name, slots, queues, types, tenant) VALUES (:id, :name, :slots, :queues, :types, :tenant)
ON CONFLICT (id) DO UPDATE SET
    heartbeat_at = now(), slots = excluded.slots, queues = excluded.queues, types = excluded.types
""").bindparams(bindparam("queues", type_=ARRAY(Text)), bindparam("types", type_=ARRAY(Text)))

ALIVE = "w.heartbeat_at > now() - CAST(:lease_ttl AS float8) * interval '1 second'"
"""The condition on `workers w` under which its leases hold."""

SERVES = """(
    :queue = ANY(w.queues) OR w.queues IS NULL AND (
        EXISTS (SELECT 1 FROM queues q WHERE q.name = :queue AND NOT q.dedicated)
        OR NOT EXISTS (SELECT 1 FROM job_types y WHERE y.queue = :queue)
        OR EXISTS (SELECT 1 FROM job_types y WHERE y.queue = :queue AND (w.types IS NULL OR y.name = ANY(w.types)))
    )
)"""
"""The condition on `workers w` under which it takes from :queue; as `accepted.storage.queues.served_by` tells it to."""

_RETIRE = text("DELETE FROM workers WHERE id = :id")

_OPEN_ATTEMPTS = """
SELECT t.job_id, t.attempt, t.worker_id, j.max_attempts, j.crashes, CAST(j.retry AS text),
       y.max_attempts, y.schedule, y.jitter
FROM attempts t
JOIN jobs j ON j.id = t.job_id
LEFT JOIN job_types y ON y.name = j.type
WHERE t.finished_at IS NULL AND {condition}
ORDER BY t.job_id LIMIT :limit
"""

_ABANDONED = text(
    _OPEN_ATTEMPTS.format(condition=f"NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = t.worker_id AND {ALIVE})")
)

_HELD_BY = text(
    _OPEN_ATTEMPTS.format(
        condition="t.worker_id = :id AND t.started_at < now() - CAST(:older_than AS float8) * interval '1 second'"
    )
)


async def heartbeat(
    conn: AsyncConnection,
    worker_id: UUID,
    name: str,
    *,
    slots: int = 0,
    queues: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    tenant: str | None = None,
) -> None:
    """This worker lives; its leases are good for another `LEASE_TTL`. The first call makes it known.

    It has `slots` in all, and serves `queues`, `types` and `tenant`; None is all there are.
    """
    values = {"slots": slots, "queues": _list(queues), "types": _list(types), "tenant": tenant}
    await conn.execute(_HEARTBEAT, {"id": worker_id, "name": name, **values})


async def retire(conn: AsyncConnection, worker_id: UUID) -> None:
    """This worker has stopped and holds nothing; if it did, the rescuer would take it at once."""
    await conn.execute(_RETIRE, {"id": worker_id})


async def abandoned(conn: AsyncConnection, lease_ttl: float, limit: int) -> list[RunningAttempt]:
    """Up to `limit` running attempts whose worker has been silent for `lease_ttl` seconds, or is unknown."""
    return [running_attempt(row) for row in await conn.execute(_ABANDONED, {"lease_ttl": lease_ttl, "limit": limit})]


async def running_attempts_of(
    conn: AsyncConnection, worker_id: UUID, older_than: float, limit: int
) -> list[RunningAttempt]:
    """Up to `limit` attempts that the ledger says this worker has been running for `older_than` seconds."""
    found = await conn.execute(_HELD_BY, {"id": worker_id, "older_than": older_than, "limit": limit})
    return [running_attempt(row) for row in found]


def _list(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)


def running_attempt(row: Sequence[Any]) -> RunningAttempt:
    """Of job_id, attempt, worker_id, max_attempts, crashes, retry, and the type's max_attempts, schedule, jitter."""
    job_id, attempt, worker_id, max_attempts, crashes, retry, *of_type = row
    return RunningAttempt(
        job_id=job_id,
        attempt=attempt,
        worker_id=worker_id,
        max_attempts=max_attempts,
        crashes=crashes,
        retry=_policy(retry, *of_type),
    )


def _policy(retry: str | None, max_attempts: int, schedule: list[float] | None, jitter: float) -> Retry:
    """The job's own policy, else its type's, else (the type was never registered) the default."""
    if retry is not None:
        return msgspec.json.decode(retry, type=Retry)
    return Retry() if schedule is None else Retry(max_attempts, tuple(schedule), jitter)
