"""How much a step of a search reads: its rows and no more, whenever PostgreSQL made the plan."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.ids import AFTER_ALL
from accepted.storage.db.statements import Direct, Statement
from accepted.storage.jobs import searching, upcoming
from accepted.storage.jobs.job_filter import JobFilter
from accepted.storage.jobs.searching import SearchPlan
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
), indexed AS (
    INSERT INTO job_metadata (tenant, pair, job_id)
    SELECT tenant, substring(sha256('k=v') FOR 16), id FROM made
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
    "an error": (JobFilter(error_text="no such"), "narrow"),
    "a pair": (JobFilter(metadata={"k": "v"}), "pair"),
}
TABLES = ("jobs", "outbox", "attempts", "discarded_letters", "job_metadata")


@pytest.mark.parametrize("when", ["empty", "analyzed"])
@pytest.mark.parametrize("name", SEARCHES)
async def test_a_step_reads_its_rows_and_no_more(engine: AsyncEngine, name: str, when: str) -> None:
    """By a plan from empty tables, as a young installation keeps it, and by one from full tables."""
    await do(engine, "INSERT INTO metadata_keys (key) VALUES ('k')")
    async with ledger(engine, when) as conn:
        wanted, sources = SEARCHES[name]
        plan = await searching.plan(conn, "t", wanted)
        read = await rows_of_step(
            conn, when, *step(plan, ("metadata",) if sources == "pair" else getattr(plan, sources))
        )
    assert read[0] <= 3 * STEP + 2 * LIMIT, read[1]


@pytest.mark.parametrize("when", ["empty", "analyzed"])
async def test_so_does_a_step_by_run_at(engine: AsyncEngine, when: str) -> None:
    """Though all rows are due at the same moment."""
    statement = upcoming._statement(frozenset({"statuses"}), frozenset(), from_first=False)
    values = {"tenant": "t", "statuses": ["scheduled"], "internal_types": [], "size": STEP, "limit": LIMIT}
    values |= {"after_at": "now", "after_id": UUID(int=0)}
    async with ledger(engine, when) as conn:
        read = await rows_of_step(conn, when, statement, values)
    assert STEP <= read[0] <= 3 * STEP + 2 * LIMIT, read[1]


@asynccontextmanager
async def ledger(engine: AsyncEngine, when: str) -> AsyncIterator[Any]:
    """A connection of the driver, whose plans do not depend on values. Nothing analyzes the tables meanwhile."""
    for table in TABLES:
        await do(engine, f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    if when == "analyzed":
        await do(engine, MANY)
        await do(engine, f"ANALYZE {', '.join(TABLES)}")
    ledger = Direct(engine)
    async with ledger.statements() as conn:
        await conn.execute("SET plan_cache_mode = force_generic_plan")
        yield conn
    await ledger.close()


async def rows_of_step(conn: Any, when: str, statement: Statement, values: dict[str, Any]) -> tuple[int, str]:
    """How many rows the statement reads in full tables, by a plan from `when`; and the plan."""
    explain = await prepared(conn, statement, values)
    await conn.fetchval(explain)
    if when == "empty":
        await conn.execute(MANY)
    (whole,) = await conn.fetchval(explain)
    return rows_read(whole["Plan"]), json.dumps(whole, indent=1)


def step(plan: SearchPlan, sources: tuple[str, ...]) -> tuple[Statement, dict[str, Any]]:
    statement, values = searching._prepare(plan, sources, frozenset())
    return statement, values | {"before": AFTER_ALL, "step": STEP, "limit": LIMIT}


async def prepared(conn: Any, statement: Statement, values: dict[str, Any]) -> str:
    """A statement that runs the other one, prepared as the driver prepares it, and tells what it read."""
    ready = await conn.prepare(statement._sql)
    literals = ", ".join(literal(values[name]) for name in statement._names)
    explain = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON)"
    conn.kept = ready
    return f"{explain} EXECUTE {ready.get_name()}({literals})"


def literal(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    return "NULL" if value is None else f"'{{{','.join(value)}}}'" if isinstance(value, list) else f"'{value}'"


def rows_read(node: dict[str, Any]) -> int:
    """Rows that scans of tables and indexes have read, also those that they removed."""
    found = sum(rows_read(child) for child in node.get("Plans", []))
    if "Relation Name" in node or "Index Name" in node:
        removed = sum(value for name, value in node.items() if name.startswith("Rows Removed"))
        found += round((node["Actual Rows"] + removed) * node["Actual Loops"])
    return found
