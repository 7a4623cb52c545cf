"""The registered job types: what the API needs to accept jobs that it cannot run.

A type is its tenant's own, or shared (`tenant` is empty). A job is of its tenant's own type of that name, else of the
shared one; types of other tenants do not exist for it. Types with a handler in Python are shared.
"""

import re
from collections.abc import Sequence

import msgspec

from accepted.domain.failures import OnNotFound
from accepted.domain.job import QUEUE_PATTERN, TYPE_PATTERN, JobType
from accepted.domain.retry import Retry, is_duration
from accepted.domain.tenants import SHARED
from accepted.storage.db import notifications
from accepted.storage.db.statements import Connection, Row, Statement, struct
from accepted.storage.queues import notify_workers
from accepted.storage.workers import ALIVE

_PUT = """
INSERT INTO job_types AS t
    (tenant, name, description, queue, max_attempts, schedule, jitter, timeout, payload_schema, internal, not_found,
     external)
SELECT :tenant, :name, :description, :queue, CAST(:max_attempts AS int4), CAST(:schedule AS float8[]),
       CAST(:jitter AS float8), CAST(:timeout AS float8), CAST(:payload_schema AS json), CAST(:internal AS boolean),
       :not_found, CAST(:external AS boolean)
WHERE {possible}
ON CONFLICT (tenant, name) DO UPDATE SET
    description = excluded.description, queue = excluded.queue, max_attempts = excluded.max_attempts,
    schedule = excluded.schedule, jitter = excluded.jitter, timeout = excluded.timeout,
    payload_schema = excluded.payload_schema, internal = excluded.internal, not_found = excluded.not_found,
    external = excluded.external, updated_at = now()
WHERE {changes}
"""

_REGISTER = Statement(
    _PUT.format(
        possible="true",
        changes="""
      (t.description, t.queue, t.max_attempts, t.schedule, t.jitter, t.timeout, t.payload_schema::text, t.internal,
       t.not_found, t.external)
    IS DISTINCT FROM (excluded.description, excluded.queue, excluded.max_attempts, excluded.schedule, excluded.jitter,
                      excluded.timeout, excluded.payload_schema::text, excluded.internal, excluded.not_found,
                      excluded.external)""",
    )
)

_TAKE_OVER = Statement("DELETE FROM job_types WHERE name = ANY(CAST(:names AS text[])) AND tenant <> ''")

_HANDLED = f"""(t.tenant = '' AND EXISTS (
    SELECT 1 FROM workers w
    WHERE w.tenant IS NULL AND w.ends_at IS NULL AND {ALIVE} AND (w.types IS NULL OR t.name = ANY(w.types))
))"""
"""Whether a live worker process has a handler for the type `t`."""


def _of(tenant: str) -> str:
    """Whether `t` is the type of its name for this tenant, an SQL expression."""
    return f"""(t.tenant = {tenant} OR t.tenant = '' AND NOT EXISTS (
        SELECT 1 FROM job_types o WHERE o.tenant = {tenant} AND o.name = t.name))"""


_LEASED = f"""EXISTS (
    SELECT 1 FROM workers w
    WHERE w.tenant IS NOT NULL AND w.ends_at IS NULL AND {ALIVE}
      AND (t.name = ANY(w.types) OR w.types IS NULL AND t.queue = ANY(w.queues)) AND {_of("w.tenant")}
)"""
"""Whether a request for leases waits that would take jobs of the type `t`, or has waited a moment ago."""

_IN_USE = f"""(
    EXISTS (SELECT 1 FROM outbox o JOIN jobs j ON j.id = o.job_id WHERE j.type = t.name AND {_of("j.tenant")})
    OR EXISTS (SELECT 1 FROM attempts a JOIN jobs j ON j.id = a.job_id
               WHERE a.finished_at IS NULL AND j.type = t.name AND {_of("j.tenant")})
)"""
"""Whether jobs of the type `t` wait or run."""

_SCHEDULES = f"""ARRAY(
    SELECT s.name FROM schedules s WHERE s.job->>'type' = t.name AND {_of("s.tenant")} ORDER BY s.name LIMIT 5
)"""
"""The first schedules that submit jobs of the type `t`."""

_REGISTER_EXTERNAL = Statement(
    _PUT.format(
        possible=f"""NOT EXISTS (
            SELECT 1 FROM job_types t WHERE t.tenant = '' AND t.name = :name AND NOT t.external AND {_HANDLED})""",
        changes="true",
    )
    + "RETURNING t.xmax = 0 AS fresh"
)

_LOCK_OWNER = Statement("SELECT pg_advisory_xact_lock(hashtextextended('job_types ' || CAST(:tenant AS text), 0))")

_OTHERS = Statement("""
SELECT count(*) AS types, CAST(COALESCE(sum(octet_length(CAST(payload_schema AS text))), 0) AS int8) AS bytes
FROM job_types WHERE tenant = :tenant AND name <> :name AND external
""")

_LOCK = Statement(f"""
SELECT {_HANDLED} OR {_LEASED} AS served, {_IN_USE} AS in_use, {_SCHEDULES} AS schedules
FROM job_types t WHERE t.tenant = :tenant AND t.name = :name FOR UPDATE
""")

_DELETE = Statement("DELETE FROM job_types WHERE tenant = :tenant AND name = :name")

_COLUMNS = """
    tenant, name, description, queue, max_attempts, schedule, jitter, timeout,
    CAST(payload_schema AS text) AS payload_schema, internal, not_found, updated_at, external,
    CAST(xmin AS text) AS version
"""

_NAMES = Statement("SELECT name, internal, CAST(xmin AS text) AS version FROM job_types WHERE tenant = :tenant")

_OWNERS = Statement("SELECT DISTINCT tenant FROM job_types WHERE tenant <> ''")

_FIND = Statement(f"SELECT {_COLUMNS} FROM job_types WHERE tenant = :tenant AND name = :name")

_VISIBLE = Statement(f"""
SELECT DISTINCT ON (name) {_COLUMNS} FROM job_types WHERE tenant IN ('', :tenant) ORDER BY name, job_types.tenant DESC
""")


class TypeUse(msgspec.Struct, frozen=True):
    """What a registered type is needed for: a worker serves it, jobs of it wait or run, or schedules submit them."""

    served: bool = False
    in_use: bool = False
    schedules: list[str] = []


class TypeName(msgspec.Struct, frozen=True):
    """A type without its schema. `version` is another text after every change."""

    name: str
    internal: bool
    version: str


async def register(conn: Connection, types: Sequence[JobType]) -> None:
    """Insert or update these shared types, in name order; unchanged ones are not written. The caller commits.

    A tenant's own type of the name is deleted: the handler runs its jobs, too.
    """
    written = [await _REGISTER.count(conn, **_values(one)) for one in sorted(types, key=lambda each: each.name)]
    written.append(await _TAKE_OVER.count(conn, names=[one.name for one in types]))
    if any(written):
        await _announce(conn, SHARED)


async def register_external(conn: Connection, one: JobType, lease_ttl: float) -> bool | None:
    """Insert or update an external type, and say whether it is new. The caller commits.

    None: a live worker process has a handler for a type of that name, and nothing is written.
    """
    found: bool | None = await _REGISTER_EXTERNAL.value(conn, **_values(one), lease_ttl=lease_ttl)
    if found is not None:
        await _announce(conn, one.tenant)
    return found


async def others(conn: Connection, one: JobType) -> tuple[int, int]:
    """How many external types the owner of `one` has beside it, and the bytes of their schemas.

    Other PUTs of this owner wait until the transaction ends.
    """
    await _LOCK_OWNER.run(conn, tenant=one.tenant)
    (row,) = await _OTHERS.rows(conn, tenant=one.tenant, name=one.name)
    return row["types"], row["bytes"]


async def delete(conn: Connection, tenant: str, name: str, lease_ttl: float) -> TypeUse | None:
    """Delete a type, unless it is in use, and return its use; None: there is no such type. The caller commits."""
    row = await _LOCK.first(conn, tenant=tenant, name=name, lease_ttl=lease_ttl)
    if row is None:
        return None
    use = struct(TypeUse, row)
    if use == TypeUse():
        await _DELETE.run(conn, tenant=tenant, name=name)
        await _announce(conn, tenant)
    return use


async def names(conn: Connection, tenant: str) -> dict[str, TypeName]:
    """The types of this owner by name, internal ones too."""
    return {row["name"]: struct(TypeName, row) for row in await _NAMES.rows(conn, tenant=tenant)}


async def owners(conn: Connection) -> frozenset[str]:
    """The tenants that have types of their own."""
    return frozenset(await _OWNERS.values(conn))


async def find(conn: Connection, tenant: str, name: str) -> tuple[JobType, str] | None:
    """The type of this owner, and its version."""
    row = await _FIND.first(conn, tenant=tenant, name=name)
    return None if row is None else (_type(row), row["version"])


async def visible(conn: Connection, tenant: str) -> list[tuple[JobType, str]]:
    """Every type that jobs of this tenant can have, by name, with its version."""
    return [(_type(row), row["version"]) for row in await _VISIBLE.rows(conn, tenant=tenant)]


async def _announce(conn: Connection, tenant: str) -> None:
    """The default queue of a shared type decides which workers serve that queue."""
    await notifications.announce_settings(conn, notifications.TYPES)
    if tenant == SHARED:
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
        tenant=row["tenant"], updated_at=row["updated_at"], flaw=flaw,
    )  # fmt: skip


def _values(one: JobType) -> dict[str, object]:
    return {
        "tenant": one.tenant,
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
