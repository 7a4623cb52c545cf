"""Tenants: their API keys, their quotas, and their shares of the slots.

The ledger holds the SHA-256 of an API key. The key itself is 32 random bytes, so a slow hash is not needed. A quota is
a row of its tenant; tenants without one cost no query. It is counted under the lock of its row, so it is exact however
many processes take from it.
"""

from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.ids import BEFORE_ALL
from accepted.domain.tenants import DEFAULT_TENANT, RESERVED, TenantQuota, TenantShare
from accepted.storage.db import notifications
from accepted.storage.db.statements import Connection, Row, Statement, struct
from accepted.storage.queue_tenants import MADE_LIMITED
from accepted.storage.queues import notify_limiter


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
_VALID_KEYS = Statement("SELECT hash FROM api_keys WHERE hash = ANY(CAST(:hashes AS bytea[])) AND revoked_at IS NULL")
_OTHERS_HAVE_KEYS = Statement(f"""
SELECT EXISTS (
    SELECT 1 FROM api_keys WHERE revoked_at IS NULL AND tenant <> :tenant AND NOT starts_with(tenant, '{RESERVED}')
) AS found
""")
_LIST_KEYS = Statement(f"SELECT {_KEY_COLUMNS} FROM api_keys ORDER BY id")
_KEYS_OF = Statement(
    f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE tenant = :tenant AND id > :after ORDER BY id LIMIT :limit"
)
_KEY_OF = Statement(f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE id = :id AND tenant = :tenant")
_REVOKE_KEY = Statement(f"""
UPDATE api_keys SET revoked_at = now() WHERE id = :id AND revoked_at IS NULL RETURNING {_KEY_COLUMNS}
""")

_STILL_USED = """CAST(GREATEST(
    q.used - GREATEST(EXTRACT(epoch FROM {now} - q.counted_at), 0) * q.jobs / q.per, 0
) AS float8)"""
"""Of `quotas q`. If the clock was set back since `counted_at`, nothing comes back until the next statement counts."""

_TAKE = Statement(f"""
WITH locked AS MATERIALIZED (
    SELECT * FROM quotas WHERE tenant = :tenant FOR UPDATE
), timed AS MATERIALIZED (
    SELECT *, clock_timestamp() AS now FROM locked
), counted AS (
    SELECT q.tenant, q.jobs, q.now, {_STILL_USED.format(now="q.now")} AS used FROM timed q
), room AS (
    SELECT *, GREATEST(floor(jobs - used + 1e-9), 0) AS room FROM counted
), granted AS (
    SELECT *, CASE WHEN room >= :wanted THEN :wanted WHEN room >= CAST(:least AS int4) THEN room ELSE 0 END AS granted
    FROM room
)
UPDATE quotas q SET used = g.used + g.granted, counted_at = g.now
FROM granted g WHERE q.tenant = g.tenant
RETURNING q.jobs, q.per, q.used, CAST(g.granted AS int4) AS granted
""")
"""The time is read once the row is locked, so it is later than `counted_at` unless the clock was set back."""

_GIVE_BACK = Statement("UPDATE quotas SET used = GREATEST(used - :jobs, 0) WHERE tenant = :tenant")
_PUT = Statement(f"""
INSERT INTO quotas AS q (tenant, jobs, per) VALUES (:tenant, :jobs, :per)
ON CONFLICT (tenant) DO UPDATE SET
    jobs = excluded.jobs, per = excluded.per, counted_at = clock_timestamp(),
    used = LEAST({_STILL_USED.format(now="clock_timestamp()")}, excluded.jobs)
""")
"""What the former quota has used is settled at its own rate: the new rate holds from now on, not since the last job."""

_REMOVE = Statement("DELETE FROM quotas WHERE tenant = :tenant")
_QUOTA = Statement(f"""
SELECT q.jobs, q.per, {_STILL_USED.format(now="clock_timestamp()")} AS used FROM quotas q WHERE q.tenant = :tenant
""")
_PUT_SHARE = Statement("""
INSERT INTO tenant_shares AS s (tenant, weight, max_running)
VALUES (:tenant, COALESCE(CAST(:weight AS int4), 1), :max_running)
ON CONFLICT (tenant) DO UPDATE SET
    weight = COALESCE(CAST(:weight AS int4), s.weight), max_running = COALESCE(excluded.max_running, s.max_running)
""")

_LIMIT_QUEUES = Statement(f"""
UPDATE queues q SET {MADE_LIMITED} FROM tenant_shares s
WHERE s.tenant = :tenant AND s.max_running IS NOT NULL AND NOT q.limited
  AND q.name IN (SELECT queue FROM queue_tenants WHERE tenant = :tenant)
""")

_REMOVE_SHARE = Statement("DELETE FROM tenant_shares WHERE tenant = :tenant")
_SHARE = Statement("SELECT weight, max_running FROM tenant_shares WHERE tenant = :tenant")
_KNOWN = Statement("""
SELECT tenant FROM api_keys UNION SELECT tenant FROM quotas UNION SELECT tenant FROM tenant_shares
UNION SELECT CAST(:default AS text) ORDER BY 1
""")
_SIZES = Statement("SELECT tenant, jobs FROM quotas")


async def create_key(
    conn: Connection, *, key_id: UUID, tenant: str, name: str, scopes: list[str], hashed: bytes
) -> None:
    """Insert a new key by its hash. The caller commits."""
    await _CREATE_KEY.run(conn, id=key_id, tenant=tenant, name=name, scopes=scopes, hash=hashed)
    await notifications.announce_settings(conn, notifications.KEYS)


async def find_key(conn: Connection, hashed: bytes) -> tuple[ApiKey, bytes] | None:
    """The key with this hash, revoked or not, and the stored hash, which the caller compares in constant time."""
    row = await _FIND_KEY.first(conn, hash=hashed)
    return None if row is None else (struct(ApiKey, row), row["hash"])


async def others_have_keys(conn: Connection, tenant: str) -> bool:
    """Whether a tenant other than this one has a key that is not revoked. Tenants of our own do not count."""
    return bool(await _OTHERS_HAVE_KEYS.value(conn, tenant=tenant))


async def valid_keys(conn: Connection, hashes: list[bytes]) -> list[bytes]:
    """Those of `hashes` whose key exists and is not revoked."""
    return await _VALID_KEYS.values(conn, hashes=hashes)


async def list_keys(conn: Connection) -> list[ApiKey]:
    """Every key, oldest first."""
    return [struct(ApiKey, row) for row in await _LIST_KEYS.rows(conn)]


async def keys_of(conn: Connection, tenant: str, after: UUID | None, limit: int) -> list[ApiKey]:
    """Up to `limit` keys of this tenant, oldest first, above the id `after`."""
    rows = await _KEYS_OF.rows(conn, tenant=tenant, after=after or BEFORE_ALL, limit=limit)
    return [struct(ApiKey, row) for row in rows]


async def key_of(conn: Connection, tenant: str, key_id: UUID) -> ApiKey | None:
    """The key with this id; None if the tenant has no such key."""
    row = await _KEY_OF.first(conn, id=key_id, tenant=tenant)
    return None if row is None else struct(ApiKey, row)


async def revoke_key(conn: Connection, key_id: UUID) -> ApiKey | None:
    """Revoke a key. None: it does not exist, or was revoked before. The caller commits."""
    await notifications.announce_settings(conn, notifications.KEYS)
    row = await _REVOKE_KEY.first(conn, id=key_id)
    return None if row is None else struct(ApiKey, row)


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
    """Set the tenant's quota: `jobs` in `per` seconds. What is still used stays used. The caller commits."""
    await _PUT.run(conn, tenant=tenant, jobs=jobs, per=per)
    await notifications.announce_settings(conn, notifications.LIMITS)


async def remove_quota(conn: Connection, tenant: str) -> bool:
    """Remove the tenant's quota, and say whether it had one. The caller commits."""
    await notifications.announce_settings(conn, notifications.LIMITS)
    return await _REMOVE.count(conn, tenant=tenant) > 0


async def quota_of(conn: Connection, tenant: str) -> TenantQuota | None:
    """The tenant's quota as it is now."""
    row = await _QUOTA.first(conn, tenant=tenant)
    return None if row is None else _standing(row)


async def put_share(conn: Connection, tenant: str, weight: int | None, max_running: int | None) -> None:
    """Set the tenant's share of the slots; None leaves a value as it is. The caller commits.

    With a `max_running`, the queues that the tenant uses are limited.
    """
    await _PUT_SHARE.run(conn, tenant=tenant, weight=weight, max_running=max_running)
    await _LIMIT_QUEUES.run(conn, tenant=tenant)
    await notify_limiter(conn)


async def remove_share(conn: Connection, tenant: str) -> bool:
    """Let the tenant have the share of every other, and say whether it had another. The caller commits."""
    await notify_limiter(conn)
    return await _REMOVE_SHARE.count(conn, tenant=tenant) > 0


async def share_of(conn: Connection, tenant: str) -> TenantShare:
    """The tenant's share as it is now."""
    row = await _SHARE.first(conn, tenant=tenant)
    return TenantShare() if row is None else struct(TenantShare, row)


async def known(conn: Connection) -> list[str]:
    """The tenants that have an API key, a quota or a share, and the one of callers without authentication."""
    return await _KNOWN.values(conn, default=DEFAULT_TENANT)


async def quota_sizes(conn: Connection) -> dict[str, int]:
    """How many jobs each tenant that has a quota may submit at once."""
    return {row["tenant"]: row["jobs"] for row in await _SIZES.rows(conn)}


def _standing(row: Row) -> TenantQuota:
    return TenantQuota(row["jobs"], row["per"], row["used"])
