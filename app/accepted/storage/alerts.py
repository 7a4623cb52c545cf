"""Which dead letters nobody has been told of, over all tenants, and how deep they lie."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.job import ALERT_TYPE

_UNTOLD = text("""
SELECT count(*) FROM (SELECT FROM dead_letters WHERE alerted_at IS NULL LIMIT :most) AS waiting
""")

_LATELY = text("""
SELECT count(*) FROM (
    SELECT created_at FROM jobs WHERE tenant = :tenant AND type = :type ORDER BY id DESC LIMIT :most
) AS alerts WHERE created_at > now() - CAST(:seconds AS float8) * interval '1 second'
""")

_TAKE = text("""
WITH untold AS MATERIALIZED (
    SELECT job_id FROM dead_letters WHERE alerted_at IS NULL ORDER BY failed_at LIMIT :most FOR UPDATE SKIP LOCKED
), told AS (
    UPDATE dead_letters d SET alerted_at = now() FROM untold u WHERE d.job_id = u.job_id
    RETURNING d.job_id, d.tenant, d.type, d.queue, d.class, d.message, d.failed_at
)
SELECT * FROM told ORDER BY failed_at, job_id
""")

_DEPTH = text("""
SELECT queue, type, class, count(*) FROM dead_letters GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT :most
""")


class Untold(msgspec.Struct, frozen=True):
    """A dead letter as its alert shows it."""

    job_id: UUID
    tenant: str
    type: str
    queue: str
    class_: str = msgspec.field(name="class")
    message: str
    failed_at: datetime


class Depth(msgspec.Struct, frozen=True):
    """How many letters there are of one kind."""

    queue: str
    type: str
    class_: str = msgspec.field(name="class")
    count: int


async def untold(conn: AsyncConnection, most: int) -> int:
    """How many letters nobody was told of; counted up to `most`."""
    return int((await conn.execute(_UNTOLD, {"most": most})).scalar_one())


async def alerts_lately(conn: AsyncConnection, tenant: str, seconds: float, most: int) -> int:
    """How many alerts were written in the last `seconds`; counted up to `most`."""
    values = {"tenant": tenant, "type": ALERT_TYPE, "seconds": seconds, "most": most}
    return int((await conn.execute(_LATELY, values)).scalar_one())


async def take(conn: AsyncConnection, most: int) -> Sequence[Untold]:
    """Mark up to `most` letters as told, the oldest first, passing over what others are at. The caller commits."""
    return [Untold(*row) for row in await conn.execute(_TAKE, {"most": most})]


async def depth(conn: AsyncConnection, most: int) -> Sequence[Depth]:
    """The letters by queue, type and class: the `most` largest kinds."""
    return [Depth(*row) for row in await conn.execute(_DEPTH, {"most": most})]
