"""Webhook URLs that fail: since when without a break. One that has done so for `GIVEN_UP` is told nothing more.

A row is written by the first failure and deleted by the next success, or by whoever sends a delivery to it again
(`app.storage.retrying`, `begin_anew`): then it has another five days.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

GIVEN_UP = 5 * 86400.0
"""Seconds: contract section 6."""

_FAILING_FOR = text("""
SELECT CAST(EXTRACT(epoch FROM now() - failing_since) AS float8) FROM webhook_urls WHERE tenant = :tenant AND url = :url
""")
_FAILED = text("INSERT INTO webhook_urls (tenant, url) VALUES (:tenant, :url) ON CONFLICT DO NOTHING")
_FORGET = text("DELETE FROM webhook_urls WHERE tenant = :tenant AND url = :url")


async def failing_for(conn: AsyncConnection, tenant: str, url: str) -> float | None:
    """Seconds since the first failure that no success has followed; None when there is none."""
    row = (await conn.execute(_FAILING_FOR, {"tenant": tenant, "url": url})).first()
    return None if row is None else float(row[0])


async def given_up(conn: AsyncConnection, tenant: str, url: str) -> bool:
    """Whether nothing more is to be sent there."""
    seconds = await failing_for(conn, tenant, url)
    return seconds is not None and seconds >= GIVEN_UP


async def failed(conn: AsyncConnection, tenant: str, url: str) -> None:
    """A delivery has failed. The caller commits."""
    await conn.execute(_FAILED, {"tenant": tenant, "url": url})


async def answered(conn: AsyncConnection, tenant: str, url: str) -> None:
    """A delivery has succeeded. The caller commits."""
    await conn.execute(_FORGET, {"tenant": tenant, "url": url})


async def begin_anew(conn: AsyncConnection, tenant: str, url: str) -> None:
    """Somebody wants a delivery sent there once more: it is tried, however long it has failed. The caller commits."""
    await conn.execute(_FORGET, {"tenant": tenant, "url": url})
