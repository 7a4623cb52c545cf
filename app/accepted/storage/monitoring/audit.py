"""The audit: a row for each act, inserted in the transaction of the act, and never changed after it is done."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from accepted.domain.ids import AFTER_ALL, floor_at
from accepted.domain.monitoring.audit import AuditEntry
from accepted.storage.db.statements import Connection, Statement, struct

KEPT = timedelta(days=400)
"""Over a year, so that a yearly review finds the whole of it."""

SLACK = 3600.0
"""Seconds by which the time in an id may differ from the ledger's: clocks differ, and a transaction takes its time."""

_COLUMNS = "id, at, tenant, key_id, key_name, address, action, target, CAST(detail AS text) AS detail"

_PUT = Statement("""
INSERT INTO audit (id, tenant, key_id, key_name, address, action, target, detail)
VALUES (:id, :tenant, :key_id, :key_name, :address, :action, :target, CAST(CAST(:detail AS text) AS json))
ON CONFLICT (id) DO UPDATE SET detail = excluded.detail
""")

_FILTERS = """
  AND (CAST(:action AS text) IS NULL OR action = :action)
  AND at >= :since AND id > :after AND id < :before
ORDER BY id DESC LIMIT :limit
"""
_PAGE = Statement(f"SELECT {_COLUMNS} FROM audit WHERE true{_FILTERS}")
_PAGE_OF_TENANT = Statement(f"SELECT {_COLUMNS} FROM audit WHERE tenant = :tenant{_FILTERS}")

_PRUNE = Statement("""
DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE id < :newest ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED)
""")

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")


async def put(conn: Connection, entry: AuditEntry) -> None:
    """Insert the entry, or replace the detail of the one with its id. The caller commits."""
    values = msgspec.structs.asdict(entry)
    del values["at"]
    await _PUT.run(conn, **values)


async def page(
    conn: Connection, tenant: str | None, action: str | None, since: datetime | None, before: UUID | None, limit: int
) -> Sequence[AuditEntry]:
    """Up to `limit` entries of the tenant, or of all tenants if None, newest first, below the id `before`."""
    begin = since or _EPOCH
    statement, of = (_PAGE, {}) if tenant is None else (_PAGE_OF_TENANT, {"tenant": tenant})
    found = await statement.rows(
        conn, **of, action=action, since=begin, after=floor_at(begin, -SLACK), before=before or AFTER_ALL, limit=limit
    )
    return [struct(AuditEntry, row) for row in found]


async def prune(conn: Connection, now: datetime, limit: int) -> int:
    """Delete up to `limit` entries older than `KEPT`. The caller commits."""
    return await _PRUNE.count(conn, newest=floor_at(now - KEPT), limit=limit)
