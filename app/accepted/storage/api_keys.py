"""API keys. The ledger holds a SHA-256 of each; the key itself is 32 random bytes, so no slow hash is needed."""

from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.storage.db.tables import api_keys


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, and what he may do."""

    id: UUID
    tenant: str
    name: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None = None


async def create(
    conn: AsyncConnection, *, key_id: UUID, tenant: str, name: str, scopes: list[str], hashed: bytes
) -> None:
    """Store a new key by its hash. The caller commits."""
    await conn.execute(insert(api_keys).values(id=key_id, tenant=tenant, name=name, scopes=scopes, hash=hashed))


async def find(conn: AsyncConnection, hashed: bytes) -> tuple[ApiKey, bytes] | None:
    """The key with this hash, revoked or not, and the stored hash to compare with in constant time."""
    row = (await conn.execute(select(*_SHOWN, api_keys.c.hash).where(api_keys.c.hash == hashed))).first()
    return None if row is None else (_key(tuple(row)[:-1]), row[-1])


async def list_keys(conn: AsyncConnection) -> list[ApiKey]:
    """Every key, oldest first."""
    return [_key(tuple(row)) for row in await conn.execute(select(*_SHOWN).order_by(api_keys.c.id))]


async def revoke(conn: AsyncConnection, key_id: UUID, now: datetime) -> bool:
    """End a key. Returns whether there was one to end. The caller commits."""
    ended = await conn.execute(
        update(api_keys)
        .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(api_keys.c.id)
    )
    return ended.first() is not None


_SHOWN = [api_keys.c[name] for name in ApiKey.__struct_fields__]


def _key(row: tuple[object, ...]) -> ApiKey:
    return ApiKey(**dict(zip(ApiKey.__struct_fields__, row, strict=True)))  # type: ignore[arg-type]
