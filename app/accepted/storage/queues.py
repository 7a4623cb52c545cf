"""Queues as the ledger knows them: their names, and the limits that were set for them.

A queue exists as soon as a job or a limit names it. It is limited (docs/waiting.md) from its first limit on, or from
its first job with a priority or a concurrency key, and it stays limited: a reader of `limited` never has to look again.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import literal, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.storage.db.statements import Connection, Statement
from accepted.storage.db.tables import queues

CHANNEL = "accepted_held"
"""Notifies the limiter that a limited queue has changed. It carries no name: names would not fit in a payload."""

NAMED = "accepted_queues"
"""Notifies workers that serve every queue that there is a new one."""

LIMITED = "ARRAY(SELECT name FROM queues WHERE limited)"
"""The limited queues, in a statement: looked up once, and only if it comes to that."""

PAUSED = "ARRAY(SELECT name FROM queues WHERE limited AND paused)"

NOTIFY = f"(SELECT CAST(pg_notify('{CHANNEL}', '') AS text) IS NOT NULL)"
"""Notifies the limiter, once a statement; true. Only for statements that hold a row."""

_MARK_LIMITED = Statement(f"""
INSERT INTO queues (name, limited)
SELECT name, true FROM unnest(CAST(:names AS text[])) AS n(name) WHERE name <> ALL({LIMITED}) ORDER BY name
ON CONFLICT (name) DO UPDATE SET limited = true
""")

_NOTIFY = Statement(f"SELECT {NOTIFY}")

_NOTIFY_WORKERS = Statement(f"SELECT pg_notify('{NAMED}', '')")

HELD_AGAIN = """
UPDATE outbox o SET held = true, admitted = false, published = false, due_at = j.run_at
FROM jobs j WHERE j.id = o.job_id AND o.job_id = ANY(ARRAY(SELECT job_id FROM {rows}))
"""
"""Takes what was admitted back, each to its old place."""

_HOLD_ADMITTED = Statement(f"""
WITH admitted AS MATERIALIZED (
    SELECT job_id FROM outbox WHERE queue = :queue AND admitted ORDER BY job_id FOR UPDATE
)
{HELD_AGAIN.format(rows="admitted")}
""")

_SERVED_BY = text("""
SELECT q.name FROM queues q
WHERE NOT q.dedicated
   OR NOT EXISTS (SELECT 1 FROM job_types y WHERE y.queue = q.name)
   OR EXISTS (SELECT 1 FROM job_types y WHERE y.queue = q.name AND y.name = ANY(CAST(:types AS text[])))
ORDER BY q.name
""")


class RateLimit(msgspec.Struct, frozen=True):
    """No more than `jobs` begin in `per` seconds, evenly."""

    jobs: int
    per: float


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What was set for a queue; None is no limit."""

    name: str
    paused: bool
    max_running: int | None
    rate_limit: RateLimit | None
    max_running_per_key: int | None
    max_depth: int | None


_COLUMNS = (
    queues.c.name, queues.c.paused, queues.c.max_running, queues.c.rate_jobs, queues.c.rate_per,
    queues.c.max_running_per_key, queues.c.max_depth,
)  # fmt: skip

_LIMITING = ("paused", "max_running", "rate_jobs", "max_running_per_key")


async def served_by(conn: AsyncConnection, types: Sequence[str]) -> list[str]:
    """The queues for a worker that has handlers for `types` and was told to serve every queue, by name.

    Left out are those that are the default queue of other types only, and were so before their first job: what is on
    them is for others.
    """
    return [row[0] for row in await conn.execute(_SERVED_BY, {"types": list(types)})]


async def every(conn: AsyncConnection) -> list[QueueSettings]:
    """What was set for each queue, by name."""
    return [_read(row) for row in await conn.execute(select(*_COLUMNS).order_by(queues.c.name))]


async def settings_of(conn: AsyncConnection, name: str) -> QueueSettings | None:
    """What was set for this queue; None when nobody has named it."""
    row = (await conn.execute(select(*_COLUMNS).where(queues.c.name == name))).first()
    return None if row is None else _read(row)


async def change(conn: AsyncConnection, name: str, changes: Mapping[str, Any]) -> QueueSettings:
    """Set these columns of a queue, and make it known if nobody has named it. The caller commits.

    What was let go under the limits of before and was not claimed yet is held again, in its old place.
    """
    limited = any(changes.get(column) for column in _LIMITING)
    values = {**changes, "limited": or_(queues.c.limited, literal(limited))}
    made = insert(queues).values(name=name, **changes, limited=limited)
    changed = made.on_conflict_do_update(index_elements=["name"], set_=values).returning(*_COLUMNS)
    row = (await conn.execute(changed)).one()
    if not changes.keys().isdisjoint(_LIMITING):
        await _HOLD_ADMITTED.rows(conn, queue=name)
    await notify(conn)
    await _NOTIFY_WORKERS.rows(conn)
    return _read(row)


async def mark_limited(conn: Connection, names: Iterable[str]) -> None:
    """From here on these queues are limited. Those that are already are not locked for it."""
    await _MARK_LIMITED.rows(conn, names=sorted(names))


async def notify(conn: Connection) -> None:
    """Notify the limiter when this transaction commits."""
    await _NOTIFY.rows(conn)


def _read(row: Any) -> QueueSettings:
    name, paused, max_running, rate_jobs, rate_per, max_running_per_key, max_depth = row
    return QueueSettings(
        name=name, paused=paused, max_running=max_running,
        rate_limit=None if rate_jobs is None else RateLimit(rate_jobs, rate_per),
        max_running_per_key=max_running_per_key, max_depth=max_depth,
    )  # fmt: skip
