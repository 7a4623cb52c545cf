"""API keys. The ledger holds a SHA-256 of each; the key itself is 32 random bytes, so no slow hash is needed.

The quotas of tenants, and what is taken from them. One row for each tenant that has one; nobody else's is read.

A bucket is counted on by whoever takes from it, under its row's lock, so it is exact however many processes take.
"""

from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.tenants import TenantQuota
from accepted.storage.db.tables import api_keys


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, and what he may do."""

    id: UUID
    tenant: str
    name: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None = None


async def create_key(
    conn: AsyncConnection, *, key_id: UUID, tenant: str, name: str, scopes: list[str], hashed: bytes
) -> None:
    """Store a new key by its hash. The caller commits."""
    await conn.execute(insert(api_keys).values(id=key_id, tenant=tenant, name=name, scopes=scopes, hash=hashed))


async def find_key(conn: AsyncConnection, hashed: bytes) -> tuple[ApiKey, bytes] | None:
    """The key with this hash, revoked or not, and the stored hash to compare with in constant time."""
    row = (await conn.execute(select(*_SHOWN, api_keys.c.hash).where(api_keys.c.hash == hashed))).first()
    return None if row is None else (_key(tuple(row)[:-1]), row[-1])


async def list_keys(conn: AsyncConnection) -> list[ApiKey]:
    """Every key, oldest first."""
    return [_key(tuple(row)) for row in await conn.execute(select(*_SHOWN).order_by(api_keys.c.id))]


async def revoke_key(conn: AsyncConnection, key_id: UUID, now: datetime) -> bool:
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


_LEFT_OVER = "GREATEST(used - GREATEST(EXTRACT(epoch FROM now() - counted_at), 0) * jobs / per, 0)"

_TAKE_QUOTA = text(f"""
WITH locked AS MATERIALIZED (
    SELECT tenant, jobs, per, CAST({_LEFT_OVER} AS float8) AS used FROM quotas WHERE tenant = :tenant FOR UPDATE
), room AS (
    SELECT *, GREATEST(floor(jobs - used + 1e-9), 0) AS room FROM locked
), granted AS (
    SELECT *, CASE WHEN room >= :wanted THEN :wanted WHEN room >= CAST(:least AS int4) THEN room ELSE 0 END AS granted
    FROM room
)
UPDATE quotas q SET used = g.used + g.granted, counted_at = GREATEST(q.counted_at, now())
FROM granted g WHERE q.tenant = g.tenant
RETURNING q.jobs, q.per, q.used, CAST(g.granted AS int4)
""")

_GIVE_BACK = text("UPDATE quotas SET used = GREATEST(used - :jobs, 0) WHERE tenant = :tenant")

_PUT_QUOTA = text("""
INSERT INTO quotas (tenant, jobs, per) VALUES (:tenant, :jobs, :per)
ON CONFLICT (tenant) DO UPDATE SET jobs = excluded.jobs, per = excluded.per, used = LEAST(quotas.used, excluded.jobs)
""")
_REMOVE_QUOTA = text("DELETE FROM quotas WHERE tenant = :tenant")
_QUOTA_OF = text(f"SELECT jobs, per, CAST({_LEFT_OVER} AS float8) FROM quotas WHERE tenant = :tenant")
_TENANTS = text("SELECT tenant FROM quotas")


class TakenQuota(msgspec.Struct, frozen=True):
    """How many jobs were granted quota_of those that were asked for, and how the quota stands after that."""

    granted: int
    standing: TenantQuota


async def take_quota(conn: AsyncConnection, tenant: str, wanted: int, least: int = 1) -> TakenQuota | None:
    """Take `wanted` from the tenant's quota, or what there is if that is `least`; None: he has no quota.

    The caller commits.
    """
    row = (await conn.execute(_TAKE_QUOTA, {"tenant": tenant, "wanted": wanted, "least": least})).first()
    return None if row is None else TakenQuota(row[3], TenantQuota(row[0], row[1], row[2]))


async def give_quota_back(conn: AsyncConnection, tenant: str, jobs: int) -> None:
    """These jobs were not accepted after all. The caller commits."""
    await conn.execute(_GIVE_BACK, {"tenant": tenant, "jobs": jobs})


async def put_quota(conn: AsyncConnection, tenant: str, jobs: int, per: float) -> None:
    """Set the tenant's quota; what is used quota_of a former one stays used. The caller commits."""
    await conn.execute(_PUT_QUOTA, {"tenant": tenant, "jobs": jobs, "per": per})


async def remove_quota(conn: AsyncConnection, tenant: str) -> bool:
    """Returns whether there was one. The caller commits."""
    return bool((await conn.execute(_REMOVE_QUOTA, {"tenant": tenant})).rowcount)


async def quota_of(conn: AsyncConnection, tenant: str) -> TenantQuota | None:
    """How the tenant's quota stands now."""
    row = (await conn.execute(_QUOTA_OF, {"tenant": tenant})).first()
    return None if row is None else TenantQuota(row[0], row[1], row[2])


async def tenants_with_quota(conn: AsyncConnection) -> frozenset[str]:
    """Who has a quota."""
    return frozenset(row[0] for row in await conn.execute(_TENANTS))
