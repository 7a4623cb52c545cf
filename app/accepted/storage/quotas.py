"""The quotas of tenants, and what is taken from them. One row for each tenant that has one; nobody else's is read.

A bucket is counted on by whoever takes from it, under its row's lock, so it is exact however many processes take.
"""

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.quota import Standing

_LEFT_OVER = "GREATEST(used - GREATEST(EXTRACT(epoch FROM now() - counted_at), 0) * jobs / per, 0)"

_TAKE = text(f"""
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

_SET = text("""
INSERT INTO quotas (tenant, jobs, per) VALUES (:tenant, :jobs, :per)
ON CONFLICT (tenant) DO UPDATE SET jobs = excluded.jobs, per = excluded.per, used = LEAST(quotas.used, excluded.jobs)
""")
_DELETE = text("DELETE FROM quotas WHERE tenant = :tenant")
_OF = text(f"SELECT jobs, per, CAST({_LEFT_OVER} AS float8) FROM quotas WHERE tenant = :tenant")
_TENANTS = text("SELECT tenant FROM quotas")


class Taken(msgspec.Struct, frozen=True):
    """How many jobs were granted of those that were asked for, and how the quota stands after that."""

    granted: int
    standing: Standing


async def take(conn: AsyncConnection, tenant: str, wanted: int, least: int = 1) -> Taken | None:
    """Take `wanted` from the tenant's quota, or what there is if that is `least`; None: he has no quota.

    The caller commits.
    """
    row = (await conn.execute(_TAKE, {"tenant": tenant, "wanted": wanted, "least": least})).first()
    return None if row is None else Taken(row[3], Standing(row[0], row[1], row[2]))


async def give_back(conn: AsyncConnection, tenant: str, jobs: int) -> None:
    """These jobs were not accepted after all. The caller commits."""
    await conn.execute(_GIVE_BACK, {"tenant": tenant, "jobs": jobs})


async def put(conn: AsyncConnection, tenant: str, jobs: int, per: float) -> None:
    """Set the tenant's quota; what is used of a former one stays used. The caller commits."""
    await conn.execute(_SET, {"tenant": tenant, "jobs": jobs, "per": per})


async def remove(conn: AsyncConnection, tenant: str) -> bool:
    """Returns whether there was one. The caller commits."""
    return bool((await conn.execute(_DELETE, {"tenant": tenant})).rowcount)


async def of(conn: AsyncConnection, tenant: str) -> Standing | None:
    """How the tenant's quota stands now."""
    row = (await conn.execute(_OF, {"tenant": tenant})).first()
    return None if row is None else Standing(row[0], row[1], row[2])


async def tenants(conn: AsyncConnection) -> frozenset[str]:
    """Who has a quota."""
    return frozenset(row[0] for row in await conn.execute(_TENANTS))
