"""Tenants: their API keys and their quotas.

The ledger holds the SHA-256 of an API key. The key itself is 32 random bytes, so a slow hash is not needed. A quota is
a row of its tenant; tenants without one cost no query. It is counted under the lock of its row, so it is exact however
many processes take from it.
"""

from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.tenants import TenantQuota
from accepted.storage.db.statements import Connection, Row, Statement, struct


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, its tenant and what it allows."""

    id: UUID
    tenant: str
    name: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None = None


class TakenQuota(msgspec.Struct, frozen=True):
    """How many jobs were granted, and the quota after that."""

    granted: int
    quota: TenantQuota


_KEY_COLUMNS = ", ".join(ApiKey.__struct_fields__)

_CREATE_KEY = Statement("""
INSERT INTO api_keys (id, tenant, name, scopes, hash) VALUES (:id, :tenant, :name, CAST(:scopes AS text[]), :hash)
""")
_FIND_KEY = Statement(f"SELECT {_KEY_COLUMNS}, hash FROM api_keys WHERE hash = :hash")
_LIST_KEYS = Statement(f"SELECT {_KEY_COLUMNS} FROM api_keys ORDER BY id")
_REVOKE_KEY = Statement("UPDATE api_keys SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL")

_LEFT_OVER = "GREATEST(used - GREATEST(EXTRACT(epoch FROM now() - counted_at), 0) * jobs / per, 0)"

_TAKE = Statement(f"""
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
RETURNING q.jobs, q.per, q.used, CAST(g.granted AS int4) AS granted
""")

_GIVE_BACK = Statement("UPDATE quotas SET used = GREATEST(used - :jobs, 0) WHERE tenant = :tenant")
_PUT = Statement("""
INSERT INTO quotas (tenant, jobs, per) VALUES (:tenant, :jobs, :per)
ON CONFLICT (tenant) DO UPDATE SET jobs = excluded.jobs, per = excluded.per, used = LEAST(quotas.used, excluded.jobs)
""")
_REMOVE = Statement("DELETE FROM quotas WHERE tenant = :tenant")
_QUOTA = Statement(f"SELECT jobs, per, CAST({_LEFT_OVER} AS float8) AS used FROM quotas WHERE tenant = :tenant")
_WITH_QUOTA = Statement("SELECT tenant FROM quotas")


async def create_key(
    conn: Connection, *, key_id: UUID, tenant: str, name: str, scopes: list[str], hashed: bytes
) -> None:
    """Insert a new key by its hash. The caller commits."""
    await _CREATE_KEY.run(conn, id=key_id, tenant=tenant, name=name, scopes=scopes, hash=hashed)


async def find_key(conn: Connection, hashed: bytes) -> tuple[ApiKey, bytes] | None:
    """The key with this hash, revoked or not, and the stored hash, which the caller compares in constant time."""
    row = await _FIND_KEY.first(conn, hash=hashed)
    return None if row is None else (struct(ApiKey, row), row["hash"])


async def list_keys(conn: Connection) -> list[ApiKey]:
    """Every key, oldest first."""
    return [struct(ApiKey, row) for row in await _LIST_KEYS.rows(conn)]


async def revoke_key(conn: Connection, key_id: UUID, now: datetime) -> bool:
    """Revoke a key. False: it does not exist, or was revoked before. The caller commits."""
    return await _REVOKE_KEY.count(conn, id=key_id, now=now) > 0


async def take_quota(conn: Connection, tenant: str, wanted: int, least: int = 1) -> TakenQuota | None:
    """Take `wanted` jobs from the tenant's quota, or what is left of it if that is `least` or more.

    None: the tenant has no quota. The caller commits.
    """
    row = await _TAKE.first(conn, tenant=tenant, wanted=wanted, least=least)
    return None if row is None else TakenQuota(row["granted"], _standing(row))


async def give_quota_back(conn: Connection, tenant: str, jobs: int) -> None:
    """Give back what was taken for jobs that were not accepted. The caller commits."""
    await _GIVE_BACK.run(conn, tenant=tenant, jobs=jobs)


async def put_quota(conn: Connection, tenant: str, jobs: int, per: float) -> None:
    """Set the tenant's quota: `jobs` in `per` seconds. What was used stays used. The caller commits."""
    await _PUT.run(conn, tenant=tenant, jobs=jobs, per=per)


async def remove_quota(conn: Connection, tenant: str) -> bool:
    """Remove the tenant's quota, and say whether it had one. The caller commits."""
    return await _REMOVE.count(conn, tenant=tenant) > 0


async def quota_of(conn: Connection, tenant: str) -> TenantQuota | None:
    """The tenant's quota as it is now."""
    row = await _QUOTA.first(conn, tenant=tenant)
    return None if row is None else _standing(row)


async def tenants_with_quota(conn: Connection) -> frozenset[str]:
    """The tenants that have a quota."""
    return frozenset(await _WITH_QUOTA.values(conn))


def _standing(row: Row) -> TenantQuota:
    return TenantQuota(row["jobs"], row["per"], row["used"])
