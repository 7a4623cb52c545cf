"""How PostgreSQL looks things up when much waits and its statistics have not caught up, as after a large batch."""

import re
from collections import Counter
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.ids import new_id
from accepted.storage import webhooks
from accepted.storage.attempts import claims, completion
from accepted.storage.counts import letter_groups
from accepted.storage.db.engine import transaction
from accepted.storage.db.statements import Direct, Statement
from accepted.storage.dead_letters import LetterFilter
from accepted.storage.jobs import outbox
from accepted.storage.webhooks import DeliveryFilter
from tests.support.ledger.sql import do

WAITING = """
WITH made AS (
    INSERT INTO jobs (id, tenant, type, queue, status, priority, max_attempts, payload, run_at)
    SELECT gen_random_uuid(), 't', 'noop', 'q', 'scheduled', 4, 5, '{}', now() + interval '1 day' * n
    FROM generate_series(0, 20000) AS n RETURNING id, run_at
)
INSERT INTO outbox (job_id, attempt, tenant, queue, priority, due_at, published)
SELECT id, 0, 't', 'q', 4, run_at, false FROM made
"""


async def test_the_relay_reads_what_is_due_and_not_all_that_waits(engine: AsyncEngine) -> None:
    for table in ("jobs", "outbox"):
        await do(engine, f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    await do(engine, WAITING)
    plan = await plan_of(engine, outbox._TAKE_DUE, limit=500, hold=10.0, since=None)
    scans = [line for line in plan if "Seq Scan" in line]
    assert [scan for scan in scans if "on jobs" in scan or "on outbox" in scan] == []


DUE = WAITING.replace("interval '1 day' * n", "interval '-1 second'").replace("20000", "2000")


async def test_a_plan_from_empty_tables_reads_each_once(engine: AsyncEngine) -> None:
    """PostgreSQL keeps a plan until it analyzes the tables again, and the relay also polls while nothing waits."""
    for table in ("jobs", "outbox"):
        await do(engine, f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    ledger = Direct(engine)
    async with ledger.transaction() as conn:
        await conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        take, mark = outbox._TAKE_DUE._sql, outbox._MARK_PUBLISHED._sql
        await conn.execute(f"PREPARE take(timestamptz, int, float8) AS {take}")
        await conn.execute(f"PREPARE mark(uuid[], int[]) AS {mark}")
        await conn.execute("EXECUTE take(NULL, 500, 10)")
        await conn.execute("EXECUTE mark('{}', '{}')")
        await conn.execute(DUE)
        taken = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE take(NULL, 500, 10)"
        assert await reads(conn, taken) == {"jobs": 2, "outbox": 2}, "found, then changed"
        due = "SELECT array_agg(job_id), array_agg(attempt) FROM (SELECT * FROM outbox LIMIT 500) AS first"
        ids, attempts = await conn.fetchrow(due)
        marked = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE mark('{%s}', '{%s}')"
        arrays = ",".join(map(str, ids)), ",".join(map(str, attempts))
        assert await reads(conn, marked % arrays) == {"outbox": 2}
    await ledger.close()


@pytest.mark.parametrize(
    "statement",
    [claims._CLAIM_REFS, claims._CLAIM_NEXT, completion._APPLY],
    ids=["claim by reference", "claim the next", "outcome"],
)
async def test_a_plan_from_empty_tables_reads_no_table_whole(engine: AsyncEngine, statement: Statement) -> None:
    """A worker that starts on a fresh ledger keeps its plans through its first burst of jobs."""
    ledger = Direct(engine)
    async with ledger.transaction() as conn:
        await conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await conn.execute(f"PREPARE hot AS {statement._sql}")
        values = ", ".join(["NULL"] * len(set(re.findall(r"\$[0-9]+", statement._sql))))
        plan = [row[0] for row in await conn.fetch(f"EXPLAIN EXECUTE hot({values})")]
    await ledger.close()
    assert any("Index" in line and " on jobs" in line for line in plan)
    assert [line for line in plan if re.search("Seq Scan on (jobs|outbox|attempts)", line)] == []


async def reads(conn: Any, explain: str) -> dict[str, int]:
    """How often an explained statement read each of the two tables, or any of their indexes."""
    (plan,) = await conn.fetchval(explain)
    found: Counter[str] = Counter()
    todo = [plan["Plan"]]
    while todo:
        node = todo.pop()
        todo += node.get("Plans", [])
        if node.get("Relation Name") in {"jobs", "outbox"} and node["Node Type"] != "ModifyTable":
            found[node["Relation Name"]] += node["Actual Loops"]
    return dict(found)


LETTERS = """
INSERT INTO dead_letters (job_id, tenant, queue, type, class, message, group_key)
SELECT gen_random_uuid(), 't', 'q', 'noop', 'invalid', 'no', sha256(int4send(n % 10))
FROM generate_series(1, 20000) AS n
"""


async def test_letters_are_grouped_without_reading_them(engine: AsyncEngine) -> None:
    await do(engine, LETTERS)
    async with transaction(engine) as conn:
        while await letter_groups.add_up(conn, 5000):
            pass
        await conn.commit()
    await do(engine, "ANALYZE")
    plan = await plan_of(engine, letter_groups._LARGEST, **LetterFilter(class_="invalid").values("t"), limit=50)
    assert not [line for line in plan if "Seq Scan on dead_letters" in line], plan


DELIVERIES = """
INSERT INTO jobs (id, tenant, type, queue, status, priority, max_attempts, payload, run_at)
SELECT gen_random_uuid(), 't', CASE n % 4 WHEN 0 THEN 'webhook.deliver' ELSE 'noop' END, 'q', 'failed', 4, 5,
       json_build_object('url', 'x', 'job_id', gen_random_uuid(), 'event', '{}'), now()
FROM generate_series(1, 20000) AS n
"""


async def test_deliveries_are_found_by_their_own_indexes(engine: AsyncEngine) -> None:
    await do(engine, DELIVERIES)
    await do(engine, "ANALYZE jobs")
    about = str(new_id())
    for wanted, index in (
        (DeliveryFilter(job_id=about), "deliveries_about"),
        (DeliveryFilter(batch_id=about, status="failed", before=new_id()), "deliveries_about"),
        (DeliveryFilter(), "deliveries_by_tenant"),
    ):
        statement, values = webhooks._page("t", wanted)
        plan = await plan_of(engine, statement, **values, limit=50)
        assert [line for line in plan if index in line], plan
        assert not [line for line in plan if "Seq Scan" in line], plan
    assert not [line for line in plan if "Sort" in line], "all of a tenant's: a page is read, and no more"


async def plan_of(engine: AsyncEngine, statement: Statement, **values: Any) -> list[str]:
    """The plan for whatever values, as PostgreSQL makes it once a statement has come a few times."""
    ledger = Direct(engine)
    async with ledger.transaction() as conn:
        await conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        plan = await conn.fetch("EXPLAIN " + statement._sql, *[values[name] for name in statement._names])
    await ledger.close()
    return [row[0] for row in plan]
