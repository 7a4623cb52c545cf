"""How PostgreSQL looks things up when much waits and its statistics have not caught up, as after a large batch."""

from sqlalchemy.ext.asyncio import AsyncEngine

from app.storage import outbox
from app.storage.direct import Direct
from tests.integration.test_ledger_submission import do

WAITING = """
WITH made AS (
    INSERT INTO jobs (id, tenant, type, queue, status, priority, max_attempts, payload, run_at)
    SELECT gen_random_uuid(), 't', 'noop', 'q', 'scheduled', 4, 5, '{}', now() + interval '1 day' * n
    FROM generate_series(0, 20000) AS n RETURNING id, run_at
)
INSERT INTO outbox (job_id, attempt, queue, priority, due_at, published)
SELECT id, 0, 'q', 4, run_at, false FROM made
"""


async def test_the_relay_reads_what_is_due_and_not_all_that_waits(engine: AsyncEngine) -> None:
    for table in ("jobs", "outbox"):
        await do(engine, f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    await do(engine, WAITING)
    ledger = Direct(engine)
    async with ledger.transaction() as conn:
        await conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        values = [{"most": 500, "hold": 10.0}[name] for name in outbox._TAKE_DUE._names]
        plan = await conn.fetch("EXPLAIN " + outbox._TAKE_DUE._sql, *values)
    await ledger.close()
    scans = [row[0] for row in plan if "Seq Scan" in row[0]]
    assert [scan for scan in scans if "on jobs" in scan or "on outbox" in scan] == []
