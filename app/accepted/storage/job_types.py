"""The registered job types: what the API needs to accept jobs that it cannot run."""

from collections.abc import Sequence

from accepted.domain.failures import OnNotFound
from accepted.domain.job import JobType
from accepted.domain.retry import Retry
from accepted.storage.db import notifications
from accepted.storage.db.statements import Connection, Row, Statement
from accepted.storage.queues import notify_workers

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

_REGISTER_EXTERNAL = Statement(_PUT.format(condition="t.external") + "RETURNING t.xmax = 0 AS fresh")

_ALL = Statement("""
SELECT name, description, queue, max_attempts, schedule, jitter, timeout,
       CAST(payload_schema AS text) AS payload_schema, internal, not_found, updated_at, external
FROM job_types ORDER BY name
""")


async def register(conn: Connection, types: Sequence[JobType]) -> None:
    """Insert or update these types, in name order; unchanged ones are not written. The caller commits."""
    written = [await _REGISTER.count(conn, **_values(one)) for one in sorted(types, key=lambda each: each.name)]
    if any(written):
        await _announce(conn)


async def register_external(conn: Connection, one: JobType) -> bool | None:
    """Insert or update an external type, and say whether it is new. The caller commits.

    None: a type of that name has a handler in a worker process, and nothing is written.
    """
    found: bool | None = await _REGISTER_EXTERNAL.value(conn, **_values(one))
    if found is not None:
        await _announce(conn)
    return found


async def all_types(conn: Connection) -> list[JobType]:
    """Every registered type, by name."""
    return [_type(row) for row in await _ALL.rows(conn)]


async def _announce(conn: Connection) -> None:
    """A type's default queue decides which workers serve that queue."""
    await notifications.announce_settings(conn, notifications.TYPES)
    await notify_workers(conn)


def _type(row: Row) -> JobType:
    return JobType(
        name=row["name"], description=row["description"], queue=row["queue"],
        retry=Retry(row["max_attempts"], tuple(row["schedule"]), row["jitter"]),
        timeout=row["timeout"], payload_schema=row["payload_schema"], internal=row["internal"],
        not_found=OnNotFound(row["not_found"]), external=row["external"], updated_at=row["updated_at"],
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
