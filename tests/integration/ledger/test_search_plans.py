"""How much a step of a search reads: its rows and no more, whenever PostgreSQL made the plan."""

import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.storage.db.statements import Direct
from accepted.storage.jobs import searching
from accepted.storage.jobs.searching import JobFilter, SearchPlan
from tests.support.ledger.sql import do

STEP = 100
LIMIT = 20
FAMILY = UUID("01990000-0000-7000-8000-000000000000")

MANY = f"""
WITH made AS (
    INSERT INTO jobs (id, tenant, type, queue, status, priority, max_attempts, payload, run_at, batch_id, root_id)
    SELECT CAST('019a0000-0000-7000-8000-' || lpad(to_hex(n), 12, '0') AS uuid),
           CASE n % 4 WHEN 0 THEN 't' ELSE 'u' END, 'noop', 'q',
           CASE n % 5 WHEN 0 THEN 'scheduled' ELSE 'succeeded' END, 4, 5, '{{}}', now(),
           CASE n % 4 WHEN 0 THEN CAST('{FAMILY}' AS uuid) END, CASE n % 4 WHEN 0 THEN CAST('{FAMILY}' AS uuid) END
    FROM generate_series(1, 10000) AS n RETURNING id, tenant, status
), discarded AS (
    INSERT INTO discarded_letters (job_id, tenant) SELECT id, tenant FROM made
), tried AS (
    INSERT INTO attempts (job_id, attempt, worker_id, started_at, finished_at) SELECT id, 1, id, now(), now() FROM made
)
INSERT INTO outbox (job_id, attempt, tenant, queue, priority, due_at, published)
SELECT id, 0, tenant, 'q', 4, now() + interval '1 day', false FROM made WHERE status = 'scheduled'
"""

SEARCHES = {
    "everything": (JobFilter(), "every"),
    "a tag": (JobFilter(tag="none"), "every"),
    "an end": (JobFilter(statuses=["failed"], queue="q"), "every"),
    "a batch": (JobFilter(batch_id=FAMILY, error_class="invalid"), "every"),
    "a family": (JobFilter(root_id=FAMILY, parent_id=FAMILY), "every"),
    "what waits": (JobFilter(statuses=["queued"]), "narrow"),
    "what runs": (JobFilter(statuses=["running"]), "narrow"),
    "what failed": (JobFilter(statuses=["failed"]), "narrow"),
}


@pytest.mark.parametrize("when", ["empty", "analyzed"])
@pytest.mark.parametrize("name", SEARCHES)
async def test_a_step_reads_its_rows_and_no_more(engine: AsyncEngine, name: str, when: str) -> None:
    """By a plan from empty tables, as a young installation keeps it, and by one from full tables."""
    for table in ("jobs", "outbox", "attempts", "discarded_letters"):
        await do(engine, f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    if when == "analyzed":
        await do(engine, MANY)
        await do(engine, "ANALYZE jobs, outbox, attempts, discarded_letters")
    ledger = Direct(engine)
    async with ledger.statements() as conn:
        await conn.execute("SET plan_cache_mode = force_generic_plan")
        wanted, sources = SEARCHES[name]
        plan = await searching.plan(conn, "t", wanted)
        explain = await prepared(conn, plan, getattr(plan, sources))
        await conn.fetchval(explain)
        if when == "empty":
            await conn.execute(MANY)
        (whole,) = await conn.fetchval(explain)
    await ledger.close()
    assert rows_read(whole["Plan"]) <= 3 * STEP + 2 * LIMIT, json.dumps(whole, indent=1)


async def prepared(conn: Any, plan: SearchPlan, sources: tuple[str, ...]) -> str:
    """A statement that runs the step, prepared as the driver prepares it, and tells what it read."""
    statement, values = searching._prepare(plan, sources, frozenset())
    values |= {"before": searching.TOP, "step": STEP, "limit": LIMIT}
    ready = await conn.prepare(statement._sql)
    literals = ", ".join(literal(values[name]) for name in statement._names)
    explain = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON)"
    conn.kept = ready
    return f"{explain} EXECUTE {ready.get_name()}({literals})"


def literal(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    return "NULL" if value is None else f"'{{{','.join(value)}}}'" if isinstance(value, list) else f"'{value}'"


def rows_read(node: dict[str, Any]) -> int:
    """Rows that scans of tables and indexes have read, also those that they removed."""
    found = sum(rows_read(child) for child in node.get("Plans", []))
    if "Relation Name" in node or "Index Name" in node:
        removed = sum(value for name, value in node.items() if name.startswith("Rows Removed"))
        found += round((node["Actual Rows"] + removed) * node["Actual Loops"])
    return found
