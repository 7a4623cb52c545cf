"""A ledger for tests: its clock can be set forward, and it can be emptied.

Statements ask the ledger for the time by `now()` and `clock_timestamp()`. The connections of a process that has called
`use` find functions of these names in a schema of their own, before those of PostgreSQL, and so does `accepted.submit`,
whoever calls it. Defaults of columns are bound to PostgreSQL's functions, and so are other processes.
"""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.storage.db import engine
from accepted.storage.db.monitoring_tables import metadata
from accepted.storage.db.statements import Statement

_SCHEMA = "accepted_testing"
_SEARCH_PATH = f"{engine.SCHEMA}, {_SCHEMA}, pg_catalog, pg_temp"

_MAKE = (
    f"CREATE SCHEMA {_SCHEMA}",
    f"CREATE TABLE {_SCHEMA}.clock (forward interval NOT NULL)",
    f"INSERT INTO {_SCHEMA}.clock VALUES ('0')",
    f"""CREATE FUNCTION {_SCHEMA}.now() RETURNS timestamptz STABLE LANGUAGE sql
        RETURN pg_catalog.now() + (SELECT forward FROM {_SCHEMA}.clock)""",
    f"""CREATE FUNCTION {_SCHEMA}.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
        RETURN pg_catalog.clock_timestamp() + (SELECT forward FROM {_SCHEMA}.clock)""",
    f"ALTER FUNCTION {engine.SCHEMA}.submit_v1 SET search_path = {_SEARCH_PATH}",
)

_FORWARD = (
    f"UPDATE {_SCHEMA}.clock SET forward = forward + :by",
    "UPDATE workers SET heartbeat_at = heartbeat_at + :by",
    "UPDATE processes SET heartbeat_at = heartbeat_at + :by",
)
"""The processes live at both times: none of them misses a heartbeat."""

_NEXT_DUE = Statement("""
SELECT least(
    (SELECT min(next_at) FROM schedules WHERE enabled),
    (SELECT min(due_at) FROM outbox)
) - now() AS wait
""")

_BUSY = Statement("""
SELECT (SELECT count(*) FROM jobs WHERE status IN ('queued', 'running'))
     + (SELECT count(*) FROM jobs WHERE status IN ('scheduled', 'retrying') AND run_at <= now())
     + (SELECT count(*) FROM schedules WHERE enabled AND next_at <= now()) AS busy
""")

_KEPT = frozenset({
    "api_keys", "job_types", "metadata_keys", "periodic_locks", "processes", "queue_tenants", "queues", "quotas",
    "receivers", "sessions", "statistic_series", "submitters", "tenant_shares", "webhook_secrets", "workers",
})  # fmt: skip
"""Tables of what the service is set up with, and of its processes. All others hold jobs and what belongs to them."""

_EMPTY = f"TRUNCATE {', '.join(one.name for one in metadata.sorted_tables if one.name not in _KEPT)}"


def use() -> None:
    """The connections that this process opens from now on have the movable clock."""
    engine.SEARCH_PATH = _SEARCH_PATH


async def make(conn: AsyncConnection) -> None:
    """Make the clock, once for a database. The caller commits."""
    for statement in _MAKE:
        await Statement(statement).run(conn)


async def forward(conn: AsyncConnection, by: timedelta) -> None:
    """Set the clock forward. The caller commits."""
    for statement in _FORWARD:
        await Statement(statement).run(conn, by=by)


async def next_due(conn: AsyncConnection) -> timedelta | None:
    """How long until the next job or schedule is due; None if none waits for a time."""
    found: timedelta | None = await _NEXT_DUE.value(conn)
    return found


async def busy(conn: AsyncConnection) -> int:
    """How many jobs and schedules are due or at work."""
    found: int = await _BUSY.value(conn)
    return found


async def empty(conn: AsyncConnection) -> None:
    """Delete all jobs, batches, schedules and what belongs to them. The caller commits."""
    await Statement(_EMPTY).run(conn)
