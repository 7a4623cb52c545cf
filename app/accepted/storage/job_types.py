"""The registered job types: what the API needs to accept jobs that it cannot run."""

import re
from collections.abc import Sequence

import msgspec

from accepted.domain.failures import OnNotFound
from accepted.domain.job import QUEUE_PATTERN, TYPE_PATTERN, JobType
from accepted.domain.retry import Retry, is_duration
from accepted.storage.db import notifications
from accepted.storage.db.statements import Connection, Row, Statement, struct
from accepted.storage.queues import notify_workers
from accepted.storage.workers import ALIVE

_PUT = """
INSERT INTO job_types AS t
    (name, description, queue, max_attempts, schedule, jitter, timeout, payload_schema, internal, not_found, external)
VALUES (:name, :description, :queue, :max_attempts, :schedule, :jitter, :timeout,
        CAST(:payload_schema AS json), :internal, :not_found, :external)
ON CONFLICT (name) DO UPDATE SET
    description = excluded.description, queue = excluded.queue, max_attempts = excluded.max_attempts,
    schedule = excluded.schedule, jitter = excluded.jitter, timeout = excluded.timeout,
    payload_schema = excluded.payload_schema, internal = excluded.internal, not_found = excluded.not_found,
    external = excluded.external, updated_at = now()
WHERE {condition}
"""

_REGISTER = Statement(
    _PUT.format(
        condition="""
      (t.description, t.queue, t.max_attempts, t.schedule, t.jitter, t.timeout, t.payload_schema::text, t.internal,
       t.not_found, t.external)
    IS DISTINCT FROM (excluded.description, excluded.queue, excluded.max_attempts, excluded.schedule, excluded.jitter,
                      excluded.timeout, excluded.payload_schema::text, excluded.internal, excluded.not_found,
                      excluded.external)"""
    )
)

_HANDLED = f"""EXISTS (
    SELECT 1 FROM workers w
    WHERE w.tenant IS NULL AND w.ends_at IS NULL AND {ALIVE} AND (w.types IS NULL OR t.name = ANY(w.types))
)"""
"""Whether a live worker process has a handler for the type `t`."""

_LEASED = f"""EXISTS (
    SELECT 1 FROM workers w
    WHERE w.tenant IS NOT NULL AND w.ends_at IS NULL AND {ALIVE}
      AND (t.name = ANY(w.types) OR w.types IS NULL AND t.queue = ANY(w.queues))
)"""
"""Whether a request for leases waits that would take jobs of the type `t`, or has waited a moment ago."""

_IN_USE = """(
    EXISTS (SELECT 1 FROM outbox o JOIN jobs j ON j.id = o.job_id WHERE j.type = t.name)
    OR EXISTS (SELECT 1 FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE a.finished_at IS NULL AND j.type = t.name)
)"""
"""Whether jobs of the type `t`, of any tenant, wait or run."""

_REGISTER_EXTERNAL = Statement(_PUT.format(condition=f"t.external OR NOT {_HANDLED}") + "RETURNING t.xmax = 0 AS fresh")

_LOCK = Statement(f"""
SELECT {_HANDLED} OR {_LEASED} AS served, {_IN_USE} AS in_use FROM job_types t WHERE t.name = :name FOR UPDATE
""")

_DELETE = Statement("DELETE FROM job_types WHERE name = :name")

_ALL = Statement("""
SELECT name, description, queue, max_attempts, schedule, jitter, timeout,
       CAST(payload_schema AS text) AS payload_schema, internal, not_found, updated_at, external
FROM job_types ORDER BY name
""")


class TypeUse(msgspec.Struct, frozen=True):
    """What a registered type is needed for: a worker serves it, or jobs of it wait or run."""

    served: bool = False
    in_use: bool = False


async def register(conn: Connection, types: Sequence[JobType]) -> None:
    """Insert or update these types, in name order; unchanged ones are not written. The caller commits."""
    written = [await _REGISTER.count(conn, **_values(one)) for one in sorted(types, key=lambda each: each.name)]
    if any(written):
        await _announce(conn)


async def register_external(conn: Connection, one: JobType, lease_ttl: float) -> bool | None:
    """Insert or update an external type, and say whether it is new. The caller commits.

    None: a live worker process has a handler for a type of that name, and nothing is written.
    """
    found: bool | None = await _REGISTER_EXTERNAL.value(conn, **_values(one), lease_ttl=lease_ttl)
    if found is not None:
        await _announce(conn)
    return found


async def delete(conn: Connection, name: str, lease_ttl: float) -> TypeUse | None:
    """Delete a type, unless it is in use, and return its use; None: there is no such type. The caller commits."""
    row = await _LOCK.first(conn, name=name, lease_ttl=lease_ttl)
    if row is None:
        return None
    use = struct(TypeUse, row)
    if use == TypeUse():
        await _DELETE.run(conn, name=name)
        await _announce(conn)
    return use


async def all_types(conn: Connection) -> list[JobType]:
    """Every registered type, by name."""
    return [_type(row) for row in await _ALL.rows(conn)]


async def _announce(conn: Connection) -> None:
    """A type's default queue decides which workers serve that queue."""
    await notifications.announce_settings(conn, notifications.TYPES)
    await notify_workers(conn)


def _type(row: Row) -> JobType:
    """The type of a row. What the row has no valid value for is its flaw, and no error of its neighbors'."""
    flaw: str | None = None
    retry, not_found, timeout = Retry(), OnNotFound.FAIL, row["timeout"]
    try:
        retry = Retry(row["max_attempts"], tuple(row["schedule"]), row["jitter"])
        not_found = OnNotFound(row["not_found"])
    except ValueError as error:
        flaw = str(error)
    if timeout is not None and not is_duration(timeout):
        timeout, flaw = None, "its timeout is not a number of seconds above 0"
    if not re.fullmatch(QUEUE_PATTERN, row["queue"]) or not re.fullmatch(TYPE_PATTERN, row["name"]):
        flaw = "its name, or that of its queue, is not valid"
    return JobType(
        name=row["name"], description=row["description"], queue=row["queue"], retry=retry, timeout=timeout,
        payload_schema=row["payload_schema"], internal=row["internal"], not_found=not_found, external=row["external"],
        updated_at=row["updated_at"], flaw=flaw,
    )  # fmt: skip


def _values(one: JobType) -> dict[str, object]:
    return {
        "name": one.name,
        "description": one.description,
        "queue": one.queue,
        "max_attempts": one.retry.max_attempts,
        "schedule": list(one.retry.schedule),
        "jitter": one.retry.jitter,
        "timeout": one.timeout,
        "payload_schema": one.payload_schema,
        "internal": one.internal,
        "not_found": str(one.not_found),
        "external": one.external,
    }
