"""The job types that workers have registered: what the API needs to accept a job that it cannot run."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.failures import OnNotFound
from accepted.domain.job import JobType
from accepted.domain.retry import Retry

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

_REGISTER = text(
    _PUT.format(
        condition="""
      (t.description, t.queue, t.max_attempts, t.schedule, t.jitter, t.timeout, t.payload_schema::text, t.internal,
       t.not_found, t.external)
    IS DISTINCT FROM (excluded.description, excluded.queue, excluded.max_attempts, excluded.schedule, excluded.jitter,
                      excluded.timeout, excluded.payload_schema::text, excluded.internal, excluded.not_found,
                      excluded.external)"""
    )
)

_REGISTER_EXTERNAL = text(_PUT.format(condition="t.external") + "RETURNING t.xmax = 0 AS fresh")

_ALL = text("""
SELECT name, description, queue, max_attempts, schedule, jitter, timeout,
       CAST(payload_schema AS text), internal, not_found, updated_at, external
FROM job_types ORDER BY name
""")


async def register(conn: AsyncConnection, types: Sequence[JobType]) -> None:
    """Make these types known, in name order; one that has not changed is not written. The caller commits."""
    for one in sorted(types, key=lambda t: t.name):
        await conn.execute(_REGISTER, _row(one))


async def register_external(conn: AsyncConnection, one: JobType) -> bool | None:
    """Make an external type known, or change it: whether it is new. None: a type of that name has a handler of its own.

    The caller commits.
    """
    found = (await conn.execute(_REGISTER_EXTERNAL, _row(one))).first()
    return None if found is None else bool(found.fresh)


async def all_types(conn: AsyncConnection) -> list[JobType]:
    """Every registered type, by name."""
    return [
        JobType(
            name=row[0], description=row[1], queue=row[2],
            retry=Retry(max_attempts=row[3], schedule=tuple(row[4]), jitter=row[5]),
            timeout=row[6], payload_schema=row[7], internal=row[8], not_found=OnNotFound(row[9]), updated_at=row[10],
            external=row[11],
        )
        for row in await conn.execute(_ALL)
    ]  # fmt: skip


def _row(one: JobType) -> dict[str, object]:
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
