"""Webhook URLs that fail: since when without a break. One that has done so for `GIVEN_UP` is told nothing more.

A row is written by the first failure and deleted by the next success, or by whoever sends a delivery to it again
(`accepted.storage.jobs.manual_retry`, `begin_anew`): then it has another five days.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

GIVEN_UP = 5 * 86400.0
"""Seconds: contract section 6. From the first failure to the last: a URL that nobody calls does not fail."""

BREAK = 2 * 86400.0
"""Seconds without a failure after which the next is a first one again. Each delivery is tried once a day at least."""

_GIVEN_UP = text(f"""
SELECT failed_at >= failing_since + interval '{GIVEN_UP} seconds' FROM webhook_urls
WHERE tenant = :tenant AND url = :url
""")
_FAILED = text(f"""
INSERT INTO webhook_urls AS u (tenant, url) VALUES (:tenant, :url)
ON CONFLICT (tenant, url) DO UPDATE SET failed_at = now(),
    failing_since = CASE WHEN u.failed_at < now() - interval '{BREAK} seconds' THEN now() ELSE u.failing_since END
""")
_FORGET = text("DELETE FROM webhook_urls WHERE tenant = :tenant AND url = :url")


async def given_up(conn: AsyncConnection, tenant: str, url: str) -> bool | None:
    """Whether nothing more is to be sent there; None when it has not failed since it last succeeded."""
    row = (await conn.execute(_GIVEN_UP, {"tenant": tenant, "url": url})).first()
    return None if row is None else bool(row[0])


async def failed(conn: AsyncConnection, tenant: str, url: str) -> None:
    """A delivery has failed. The caller commits."""
    await conn.execute(_FAILED, {"tenant": tenant, "url": url})


async def answered(conn: AsyncConnection, tenant: str, url: str) -> None:
    """A delivery has succeeded. The caller commits."""
    await conn.execute(_FORGET, {"tenant": tenant, "url": url})


async def begin_anew(conn: AsyncConnection, tenant: str, url: str) -> None:
    """Somebody wants a delivery sent there once more: it is tried, however long it has failed. The caller commits."""
    await conn.execute(_FORGET, {"tenant": tenant, "url": url})
