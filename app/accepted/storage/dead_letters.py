"""Dead letters: failed jobs that someone has still to decide about. A job is one exactly while its row exists.

Rows are written by `accepted.storage.attempts.completion`, and deleted here (discard) and by
`accepted.storage.jobs.manual_retry` (replay). Letters are read for one tenant, except for alerts and their report.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.job import ALERT_TYPE, INTERNAL_TYPES
from accepted.storage.db.statements import Connection, Statement, struct

MATCHES_KIND = """
    d.tenant = :tenant
    AND (CAST(:queue AS text) IS NULL OR d.queue = CAST(:queue AS text))
    AND (CAST(:type AS text) IS NULL OR d.type = CAST(:type AS text))
    AND (CAST(:class AS text) IS NULL OR d.class = CAST(:class AS text))
    AND (CAST(:internal AS bool) OR d.type <> ALL(CAST(:internal_types AS text[])))
"""
"""The part of `MATCHES` that all letters of a group have in common (`accepted.storage.counts.letter_groups`)."""

MATCHES = f"""{MATCHES_KIND}
    AND (CAST(:before AS timestamptz) IS NULL OR d.failed_at < CAST(:before AS timestamptz))
    AND (CAST(:ids AS uuid[]) IS NULL OR d.job_id = ANY(CAST(:ids AS uuid[])))
"""
"""The condition on `dead_letters d` for the values of `LetterFilter.values`."""

_COUNT = Statement(f"SELECT count(*) AS count, now() AS now FROM dead_letters d WHERE {MATCHES}")

_LIST = Statement(f"""
SELECT d.job_id, d.type, d.queue, d.class, d.message, d.failed_at, j.attempt
FROM dead_letters d JOIN jobs j ON j.id = d.job_id
WHERE {MATCHES} AND (
    CAST(:after_at AS timestamptz) IS NULL
    OR d.failed_at < CAST(:after_at AS timestamptz)
    OR (d.failed_at = CAST(:after_at AS timestamptz) AND d.job_id > CAST(:after_id AS uuid))
)
ORDER BY d.failed_at DESC, d.job_id LIMIT :limit
""")

_DISCARD = Statement(f"""
WITH chosen AS MATERIALIZED (
    SELECT d.job_id FROM dead_letters d WHERE {MATCHES} AND d.failed_at <= :start
    ORDER BY d.job_id LIMIT :limit FOR UPDATE SKIP LOCKED
), discarded AS (
    DELETE FROM dead_letters d USING chosen c WHERE d.job_id = c.job_id RETURNING d.job_id, d.tenant
), kept AS (
    INSERT INTO discarded_letters (job_id, tenant) SELECT job_id, tenant FROM discarded ON CONFLICT DO NOTHING
)
SELECT count(*) FROM discarded
""")
"""A discarded job stays failed, and is found as one by `discarded_letters` (`accepted.storage.jobs.searching`)."""

_COUNT_UNALERTED = Statement("""
SELECT count(*) FROM (SELECT FROM dead_letters WHERE alerted_at IS NULL LIMIT :limit) AS unalerted
""")

_COUNT_RECENT_ALERTS = Statement("""
SELECT count(*) FROM (
    SELECT created_at FROM jobs WHERE tenant = :tenant AND type = :type ORDER BY id DESC LIMIT :limit
) AS alerts WHERE created_at > now() - CAST(:seconds AS float8) * interval '1 second'
""")

_TAKE_UNALERTED = Statement("""
WITH unalerted AS MATERIALIZED (
    SELECT job_id FROM dead_letters WHERE alerted_at IS NULL ORDER BY failed_at LIMIT :limit FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE dead_letters d SET alerted_at = now() FROM unalerted u WHERE d.job_id = u.job_id
    RETURNING d.job_id, d.tenant, d.type, d.queue, d.class, d.message, d.failed_at
)
SELECT * FROM taken ORDER BY failed_at, job_id
""")

_KINDS = Statement("""
SELECT queue, type, class, count(*) AS count FROM dead_letters
GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT :limit
""")


class LetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters; None does not restrict. Internal types match only if type, queue or ids are given."""

    queue: str | None = None
    type: str | None = None
    class_: str | None = None
    before: datetime | None = None
    ids: list[UUID] | None = None

    def values(self, tenant: str) -> dict[str, Any]:
        """The values of `MATCHES`."""
        return {
            "tenant": tenant, "queue": self.queue, "type": self.type, "class": self.class_, "before": self.before,
            "ids": self.ids, "internal_types": list(INTERNAL_TYPES),
            "internal": any(named is not None for named in (self.queue, self.type, self.ids)),
        }  # fmt: skip


class Letter(msgspec.Struct, frozen=True):
    """A dead letter, with the number of the attempt that failed."""

    job_id: UUID
    type: str
    queue: str
    class_: str = msgspec.field(name="class")
    message: str
    failed_at: datetime
    attempt: int


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
    """How many letters have this queue, type and class."""

    queue: str
    type: str
    class_: str = msgspec.field(name="class")
    count: int


async def count(conn: Connection, tenant: str, wanted: LetterFilter) -> tuple[int, datetime]:
    """How many letters match, and the ledger's time of the count."""
    (row,) = await _COUNT.rows(conn, **wanted.values(tenant))
    return row["count"], row["now"]


async def page(
    conn: Connection, tenant: str, wanted: LetterFilter, after: tuple[datetime, UUID] | None, limit: int
) -> Sequence[Letter]:
    """Up to `limit` letters, the newest failure first; `after` is the last letter of the page before."""
    at, last = after or (None, None)
    rows = await _LIST.rows(conn, **wanted.values(tenant), after_at=at, after_id=last, limit=limit)
    return [struct(Letter, row) for row in rows]


async def discard(conn: Connection, tenant: str, wanted: LetterFilter, start: datetime, limit: int) -> int:
    """Delete up to `limit` letters that existed at `start`; their jobs stay failed. The caller commits."""
    return int(await _DISCARD.value(conn, **wanted.values(tenant), start=start, limit=limit))


async def count_unalerted(conn: Connection, limit: int) -> int:
    """How many letters have no alert yet; counts no further than `limit`."""
    return int(await _COUNT_UNALERTED.value(conn, limit=limit))


async def count_recent_alerts(conn: Connection, tenant: str, seconds: float, limit: int) -> int:
    """How many alerts were written in the last `seconds`; counts no further than `limit`."""
    return int(await _COUNT_RECENT_ALERTS.value(conn, tenant=tenant, type=ALERT_TYPE, seconds=seconds, limit=limit))


async def take_unalerted(conn: Connection, limit: int) -> Sequence[UnalertedLetter]:
    """Mark up to `limit` letters as alerted, the oldest first; skips locked ones. The caller commits."""
    return [struct(UnalertedLetter, row) for row in await _TAKE_UNALERTED.rows(conn, limit=limit)]


async def kinds(conn: Connection, limit: int) -> Sequence[LetterKind]:
    """The `limit` largest kinds of letters, over all tenants."""
    return [struct(LetterKind, row) for row in await _KINDS.rows(conn, limit=limit)]
