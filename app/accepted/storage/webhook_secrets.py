"""The secrets that a tenant's webhooks are signed with: one current, and older ones until their rotation is over."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.ids import new_id

ROTATION = 86400.0
"""Seconds for which a replaced secret still signs, beside the new one."""

_VALID = text("""
SELECT secret FROM webhook_secrets WHERE tenant = :tenant AND (expires_at IS NULL OR expires_at > now())
ORDER BY expires_at IS NULL DESC, created_at DESC
""")
_ADD = text("""
INSERT INTO webhook_secrets (id, tenant, secret) VALUES (:id, :tenant, :secret)
ON CONFLICT (tenant) WHERE expires_at IS NULL DO NOTHING
""")
_REPLACE = text("""
UPDATE webhook_secrets SET expires_at = now() + CAST(:rotation AS float8) * interval '1 second'
WHERE tenant = :tenant AND expires_at IS NULL
""")


async def current(conn: AsyncConnection, tenant: str, fresh: str) -> list[str]:
    """The tenant's valid secrets, newest first; `fresh` becomes the first one when there is none yet.

    The caller commits.
    """
    found = await _valid(conn, tenant)
    if not found:
        await conn.execute(_ADD, {"id": new_id(), "tenant": tenant, "secret": fresh})
        found = await _valid(conn, tenant)
    return found


async def rotate(conn: AsyncConnection, tenant: str, fresh: str) -> list[str]:
    """Sign with `fresh` from now on, and with what was there for `ROTATION` more seconds. The caller commits."""
    await conn.execute(_REPLACE, {"tenant": tenant, "rotation": ROTATION})
    await conn.execute(_ADD, {"id": new_id(), "tenant": tenant, "secret": fresh})
    return await _valid(conn, tenant)


async def _valid(conn: AsyncConnection, tenant: str) -> list[str]:
    return [row[0] for row in await conn.execute(_VALID, {"tenant": tenant})]
