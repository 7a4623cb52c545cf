"""Dead letters: failed jobs that somebody has still to decide about. One is that exactly while its row is there.

Written by `accepted.storage.attempts.completion`, taken away by `accepted.storage.jobs.manual_retry` (replay) and here
(discard). Every question is asked for one tenant.

Which dead letters nobody has been told of, over all tenants, and how deep they lie.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.job import ALERT_TYPE, INTERNAL_TYPES

MATCHES = """
    d.tenant = :tenant
    AND (CAST(:queue AS text) IS NULL OR d.queue = CAST(:queue AS text))
    AND (CAST(:type AS text) IS NULL OR d.type = CAST(:type AS text))
    AND (CAST(:class AS text) IS NULL OR d.class = CAST(:class AS text))
    AND (CAST(:before AS timestamptz) IS NULL OR d.failed_at < CAST(:before AS timestamptz))
    AND (CAST(:ids AS uuid[]) IS NULL OR d.job_id = ANY(CAST(:ids AS uuid[])))
    AND (CAST(:internal AS bool) OR d.type <> ALL(CAST(:internal_types AS text[])))
"""
"""The condition that `LetterFilter.values` fills in, on `dead_letters d`."""

_COUNT = text(f"SELECT count(*), now() FROM dead_letters d WHERE {MATCHES}")

_LIST = text(f"""
SELECT d.job_id, d.type, d.queue, d.class, d.message, d.failed_at, j.attempt
FROM dead_letters d JOIN jobs j ON j.id = d.job_id
WHERE {MATCHES} AND (
    CAST(:after_at AS timestamptz) IS NULL
    OR d.failed_at < CAST(:after_at AS timestamptz)
    OR (d.failed_at = CAST(:after_at AS timestamptz) AND d.job_id > CAST(:after_id AS uuid))
)
ORDER BY d.failed_at DESC, d.job_id LIMIT :limit
""")

# What differs from job to job: UUIDs, hexadecimal, numbers; but not a status, which says what went wrong.
_STATUS = r"(?<=(HTTP(/[0-9.]+)?|status( code)?|answered)[ :=]{1,2})[1-5]\d\d(?!\d)"
_ASIDE = rf"[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}|0x[0-9a-f]+|(?<!\d)(?!{_STATUS})\d+"

_GROUPS = text(f"""
SELECT type, queue, class, pattern, count(*), min(failed_at), max(failed_at),
       (array_agg(job_id ORDER BY failed_at DESC, job_id))[1]
FROM (
    SELECT d.*, regexp_replace(d.message, :aside, '…', 'gi') AS pattern
    FROM dead_letters d WHERE {MATCHES}
) AS letters
GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 7 DESC LIMIT :limit
""")

_DISCARD = text(f"""
WITH chosen AS MATERIALIZED (
    SELECT d.job_id FROM dead_letters d WHERE {MATCHES} AND d.failed_at <= :start
    ORDER BY d.job_id LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM dead_letters d USING chosen c WHERE d.job_id = c.job_id
""")


class LetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters; None does not restrict. Those of internal types only if type, queue or ids name them."""

    queue: str | None = None
    type: str | None = None
    class_: str | None = None
    before: datetime | None = None
    ids: list[UUID] | None = None

    def values(self, tenant: str) -> dict[str, Any]:
        """What fills in `MATCHES`."""
        return {
            "tenant": tenant, "queue": self.queue, "type": self.type, "class": self.class_, "before": self.before,
            "ids": self.ids, "internal_types": list(INTERNAL_TYPES),
            "internal": any(named is not None for named in (self.queue, self.type, self.ids)),
        }  # fmt: skip


class Letter(msgspec.Struct, frozen=True):
    """A dead letter, with the number of the attempt that failed for good."""

    job_id: UUID
    type: str
    queue: str
    class_: str
    message: str
    failed_at: datetime
    attempt: int


class Group(msgspec.Struct, frozen=True):
    """Letters that failed alike: numbers and ids in their messages are put aside, as `…`, HTTP statuses are not.

    `example` is the newest.
    """

    type: str
    queue: str
    class_: str
    message: str
    count: int
    first_at: datetime
    last_at: datetime
    example: UUID


async def count(conn: AsyncConnection, tenant: str, wanted: LetterFilter) -> tuple[int, datetime]:
    """How many letters match, and the ledger's time of saying so."""
    row = (await conn.execute(_COUNT, wanted.values(tenant))).one()
    return row[0], row[1]


async def page(
    conn: AsyncConnection, tenant: str, wanted: LetterFilter, after: tuple[datetime, UUID] | None, limit: int
) -> Sequence[Letter]:
    """Up to `limit` letters, the newest failure first; `after` is the last one of the page before."""
    at, last = after or (None, None)
    rows = await conn.execute(_LIST, wanted.values(tenant) | {"after_at": at, "after_id": last, "limit": limit})
    return [Letter(*row) for row in rows]


async def groups(conn: AsyncConnection, tenant: str, wanted: LetterFilter, limit: int) -> Sequence[Group]:
    """The `limit` largest groups."""
    values = wanted.values(tenant) | {"limit": limit, "aside": _ASIDE}
    return [Group(*row) for row in await conn.execute(_GROUPS, values)]


async def discard(conn: AsyncConnection, tenant: str, wanted: LetterFilter, start: datetime, limit: int) -> int:
    """Forget up to `limit` letters that were there at `start`; their jobs stay as they are. The caller commits."""
    done = await conn.execute(_DISCARD, wanted.values(tenant) | {"start": start, "limit": limit})
    return int(done.rowcount)


_UNTOLD = text("""
SELECT count(*) FROM (SELECT FROM dead_letters WHERE alerted_at IS NULL LIMIT :limit) AS waiting
""")

_LATELY = text("""
SELECT count(*) FROM (
    SELECT created_at FROM jobs WHERE tenant = :tenant AND type = :type ORDER BY id DESC LIMIT :limit
) AS alerts WHERE created_at > now() - CAST(:seconds AS float8) * interval '1 second'
""")

_TAKE = text("""
WITH count_unalerted AS MATERIALIZED (
    SELECT job_id FROM dead_letters WHERE alerted_at IS NULL ORDER BY failed_at LIMIT :limit FOR UPDATE SKIP LOCKED
), told AS (
    UPDATE dead_letters d SET alerted_at = now() FROM count_unalerted u WHERE d.job_id = u.job_id
    RETURNING d.job_id, d.tenant, d.type, d.queue, d.class, d.message, d.failed_at
)
SELECT * FROM told ORDER BY failed_at, job_id
""")

_DEPTH = text("""
SELECT queue, type, class, count(*) FROM dead_letters GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT :limit
""")


class UnalertedLetter(msgspec.Struct, frozen=True):
    """A dead letter as its alert shows it."""

    job_id: UUID
    tenant: str
    type: str
    queue: str
    class_: str = msgspec.field(name="class")
    message: str
    failed_at: datetime


class LetterKind(msgspec.Struct, frozen=True):
    """How many letters there are of one kind."""

    queue: str
    type: str
    class_: str = msgspec.field(name="class")
    count: int


async def count_unalerted(conn: AsyncConnection, limit: int) -> int:
    """How many letters nobody was told of; counted up to `limit`."""
    return int((await conn.execute(_UNTOLD, {"limit": limit})).scalar_one())


async def count_recent_alerts(conn: AsyncConnection, tenant: str, seconds: float, limit: int) -> int:
    """How many alerts were written in the last `seconds`; counted up to `limit`."""
    values = {"tenant": tenant, "type": ALERT_TYPE, "seconds": seconds, "limit": limit}
    return int((await conn.execute(_LATELY, values)).scalar_one())


async def take_unalerted(conn: AsyncConnection, limit: int) -> Sequence[UnalertedLetter]:
    """Mark up to `limit` letters as told, the oldest first, passing over what others are at. The caller commits."""
    return [UnalertedLetter(*row) for row in await conn.execute(_TAKE, {"limit": limit})]


async def kinds(conn: AsyncConnection, limit: int) -> Sequence[LetterKind]:
    """The letters by queue, type and class: the `limit` largest kinds."""
    return [LetterKind(*row) for row in await conn.execute(_DEPTH, {"limit": limit})]
