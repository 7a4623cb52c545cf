"""Queues as the ledger knows them: their names, and the limits that were set for them.

A queue exists as soon as a job or a limit names it, until an operator deletes it. A plain queue becomes limited
(docs/waiting.md) by a limit, by a job with a priority or a concurrency key, or by a second tenant. The limiter makes it
plain again when these are gone (`accepted.storage.holding.make_plain`).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from accepted.storage import holding
from accepted.storage.db import notifications
from accepted.storage.db.statements import Connection, Row, Statement, struct
from accepted.storage.queue_tenants import CAPPED, MADE_LIMITED, NEW_QUEUE_CHANNEL, SHARED
from accepted.storage.workers import ALIVE

LIMITER_CHANNEL = "accepted_held"
"""Notifies the limiter that a limited queue has changed; it polls for which one."""

LIMITED = "ARRAY(SELECT name FROM queues WHERE limited)"
"""The limited queues, within a statement: read once, and only if the condition needs them."""

PAUSED = "ARRAY(SELECT name FROM queues WHERE limited AND paused)"

NOTIFY_LIMITER = f"(SELECT CAST(pg_notify('{LIMITER_CHANNEL}', '') AS text) IS NOT NULL)"
"""Notifies the limiter, once a statement, and is true. Only for rows that are put on hold."""

_MARK_LIMITED = Statement(f"""
INSERT INTO queues (name, limited, limited_at)
SELECT name, true, now() FROM unnest(CAST(:names AS text[])) AS n(name) WHERE name <> ALL({LIMITED}) ORDER BY name
ON CONFLICT (name) DO UPDATE SET {MADE_LIMITED}
""")

_NOTIFY = Statement(f"SELECT {NOTIFY_LIMITER}")

_NOTIFY_WORKERS = Statement(f"SELECT pg_notify('{NEW_QUEUE_CHANNEL}', '')")

_COLUMNS = "name, paused, max_running, rate_jobs, rate_per, max_running_per_key, max_depth"
_CHANGEABLE = ("owner", "paused", "max_running", "rate_jobs", "rate_per", "max_running_per_key", "max_depth")
_LIMITING = ("paused", "max_running", "rate_jobs", "max_running_per_key")
"""Columns that make a queue limited."""

_ALL = Statement(f"SELECT {_COLUMNS} FROM queues ORDER BY name")

_FIND = Statement(f"SELECT {_COLUMNS} FROM queues WHERE name = :name")

_LOCK = Statement(f"SELECT {_COLUMNS} FROM queues WHERE name = :name FOR UPDATE")

_USES = Statement(f"""
SELECT
    EXISTS (SELECT 1 FROM outbox WHERE queue = :name) AS waiting,
    EXISTS (SELECT 1 FROM attempts t JOIN jobs j ON j.id = t.job_id
            WHERE t.finished_at IS NULL AND j.queue = :name) AS running,
    ARRAY(SELECT name FROM job_types WHERE queue = :name AND tenant IN ('', :tenant) ORDER BY name LIMIT 5) AS types,
    ARRAY(SELECT DISTINCT w.name FROM workers w WHERE :name = ANY(w.queues) AND {ALIVE} LIMIT 5) AS workers
""")

_MAY_OWN = Statement("""
SELECT COALESCE(
    (SELECT owner = :tenant FROM queues WHERE name = :name),
    NOT EXISTS (SELECT 1 FROM queue_tenants WHERE queue = :name AND tenant <> :tenant)
    AND NOT (
        EXISTS (SELECT 1 FROM job_types WHERE queue = :name AND tenant = '')
        AND EXISTS (SELECT 1 FROM api_keys WHERE tenant <> :tenant AND revoked_at IS NULL)
    )
)
""")
"""The queue of a shared type is everybody's as soon as there are other tenants."""

_DELETE = Statement("""
WITH samples AS (DELETE FROM queue_samples WHERE queue = :name),
tenants AS (DELETE FROM queue_tenants WHERE queue = :name)
DELETE FROM queues WHERE name = :name
""")

_NAMES = Statement("SELECT name FROM queues ORDER BY name")

_KNOWN = Statement("SELECT name FROM queues WHERE name = ANY(CAST(:names AS text[]))")

_LIMIT_AGAIN = Statement(f"""
UPDATE queues q SET {MADE_LIMITED}
WHERE NOT q.limited AND q.name = ANY(CAST(:names AS text[])) AND (
    (SELECT o.job_id FROM outbox o WHERE o.queue = q.name AND o.on_hold AND o.due_at < 'infinity' LIMIT 1) IS NOT NULL
    OR {SHARED.format(queue="q.name")} OR {CAPPED.format(queue="q.name")}
)
""")

_SERVED_BY = Statement("""
SELECT q.name FROM queues q
WHERE NOT q.dedicated
   OR NOT EXISTS (SELECT 1 FROM job_types y WHERE y.tenant = '' AND y.queue = q.name)
   OR EXISTS (SELECT 1 FROM job_types y
              WHERE y.tenant = '' AND y.queue = q.name AND y.name = ANY(CAST(:types AS text[])))
ORDER BY q.name
""")


class RateLimit(msgspec.Struct, frozen=True):
    """At most `jobs` start in `per` seconds, evenly spaced."""

    jobs: int
    per: float


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a queue; None: no limit."""

    name: str
    paused: bool
    max_running: int | None
    rate_limit: RateLimit | None
    max_running_per_key: int | None
    max_depth: int | None


class QueueUses(msgspec.Struct, frozen=True):
    """What keeps a queue from being deleted: jobs, types whose default it is, live workers that name it (up to 5)."""

    waiting: bool
    running: bool
    types: list[str]
    workers: list[str]

    @property
    def none(self) -> bool:
        return not (self.waiting or self.running or self.types or self.workers)


async def names(conn: Connection) -> list[str]:
    """The name of each queue."""
    return await _NAMES.values(conn)


async def known(conn: Connection, names: Iterable[str]) -> set[str]:
    """Those of `names` that are queues."""
    return set(await _KNOWN.values(conn, names=sorted(names)))


async def delete(conn: Connection, name: str, tenant: str, lease_ttl: float) -> QueueUses | None:
    """Delete a queue that is not in use, with its limits. Returns its uses; None when it does not exist.

    `tenant` asks: other tenants' own types do not keep it. The caller commits. A job that is inserted meanwhile is not
    seen here: the sampler makes its queue again.
    """
    if await _LOCK.first(conn, name=name) is None:
        return None
    row = await _USES.first(conn, name=name, tenant=tenant, lease_ttl=float(lease_ttl))
    assert row is not None
    uses = struct(QueueUses, row)
    if uses.none:
        await _DELETE.run(conn, name=name)
        await notifications.announce_settings(conn, notifications.LIMITS)
        await notify_workers(conn)
    return uses


async def served_by(conn: Connection, types: Sequence[str]) -> list[str]:
    """The names of the queues that a worker with handlers for `types` serves when it is to serve every queue.

    Left out are queues that are the default of other shared types only, and were so before their first job.
    """
    return await _SERVED_BY.values(conn, types=list(types))


async def every(conn: Connection) -> list[QueueSettings]:
    """The settings of each queue, by name."""
    return [_settings(row) for row in await _ALL.rows(conn)]


async def settings_of(conn: Connection, name: str) -> QueueSettings | None:
    """The settings of this queue; None when it does not exist."""
    row = await _FIND.first(conn, name=name)
    return None if row is None else _settings(row)


async def locked(conn: Connection, name: str) -> QueueSettings | None:
    """The settings of this queue, which nobody else changes until the caller commits; None when it does not exist."""
    row = await _LOCK.first(conn, name=name)
    return None if row is None else _settings(row)


async def change(conn: Connection, name: str, changes: Mapping[str, Any]) -> QueueSettings:
    """Set these columns of a queue, which is made if it does not exist. The caller commits.

    Admitted jobs that were not claimed yet are put on hold again, each in its old place, if a limit changes.
    """
    limited = any(changes.get(column) for column in _LIMITING)
    if not changes.keys().isdisjoint(_LIMITING):
        await _LOCK.run(conn, name=name)
        await holding.hold_admitted(conn, name)
    row = await _change(tuple(changes)).first(conn, name=name, limited=limited, **changes)
    assert row is not None
    if "max_depth" in changes:
        await notifications.announce_settings(conn, notifications.LIMITS)
    await notify_limiter(conn)
    await notify_workers(conn)
    return _settings(row)


async def may_own(conn: Connection, name: str, tenant: str) -> bool:
    """Whether the queue is the tenant's, or can become so: nobody's yet, used by no other, and no shared one."""
    found: bool = await _MAY_OWN.value(conn, name=name, tenant=tenant)
    return found


async def mark_limited(conn: Connection, names: Iterable[str]) -> None:
    """Mark these queues as limited. Those that are limited already are not locked. The caller commits."""
    await _MARK_LIMITED.run(conn, names=sorted(names))


async def limit_again(conn: Connection, names: Sequence[str]) -> None:
    """Mark those of these queues as limited that were deleted, or made plain, while a job came to them and was put on
    hold: only the limiter moves it on. Also those that several tenants use, or one with a `max_running`, if it was set,
    or the queue made plain, just when the tenant came. The caller commits."""
    await _LIMIT_AGAIN.run(conn, names=list(names))


async def notify_limiter(conn: Connection) -> None:
    """Notify the limiter when this transaction commits."""
    await _NOTIFY.run(conn)


async def notify_workers(conn: Connection) -> None:
    """Notify workers, when this transaction commits, that they may have to serve other queues."""
    await _NOTIFY_WORKERS.run(conn)


@lru_cache
def _change(columns: tuple[str, ...]) -> Statement:
    """A statement for each combination of columns, so that each value has the type of its column."""
    assert set(columns) <= set(_CHANGEABLE)
    names = ", ".join(["name", "limited", *columns])
    values = ", ".join([":name", ":limited", *(f":{column}" for column in columns)])
    new = {"limited": "q.limited OR excluded.limited"} | {column: f"excluded.{column}" for column in columns}
    if "owner" in new:
        new["owner"] = "COALESCE(q.owner, excluded.owner)"
    if not set(columns).isdisjoint(_LIMITING):
        names, values, new["limited_at"] = f"{names}, limited_at", f"{values}, now()", "excluded.limited_at"
    assigned = ", ".join(f"{column} = {value}" for column, value in new.items())
    return Statement(f"""
INSERT INTO queues AS q ({names}) VALUES ({values}) ON CONFLICT (name) DO UPDATE SET {assigned}
RETURNING {_COLUMNS}
""")


def _settings(row: Row) -> QueueSettings:
    rate = None if row["rate_jobs"] is None else RateLimit(row["rate_jobs"], row["rate_per"])
    return QueueSettings(
        name=row["name"], paused=row["paused"], max_running=row["max_running"], rate_limit=rate,
        max_running_per_key=row["max_running_per_key"], max_depth=row["max_depth"],
    )  # fmt: skip
