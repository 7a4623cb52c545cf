"""The ledger's size under a steady load with a short retention: the pruner keeps up, and space is used again.

The size of the database is read at the end of each minute. It may still grow during the first `SETTLING` minutes: until
then vacuum has not come by often enough to say what a table needs.
"""

import asyncio
from typing import Any

import asyncpg

from tests.benchmarks.client import drive
from tests.benchmarks.figures import Row
from tests.benchmarks.stage import Stage

RATE = 200  # jobs a second
RETENTION = "2m"
SETTLING = 10  # minutes
WITHIN = 0.1

_SIZE = "SELECT pg_database_size(current_database())"
_JOBS = "SELECT count(*) FROM jobs"
_LARGEST = """
SELECT string_agg(relname || ' ' || size / 1000000 || ' MB', ', ' ORDER BY size DESC)
FROM (
    SELECT relname, pg_total_relation_size(oid) AS size FROM pg_class
    WHERE relnamespace = 'accepted'::regnamespace AND relkind = 'r' ORDER BY size DESC LIMIT 3
) AS tables
"""


async def measured(stage: Stage, minutes: int) -> list[Row]:
    """api, worker and scheduler on RabbitMQ; `minutes` is at least 2."""
    settled = min(SETTLING, minutes // 2)
    with stage.settings(RETENTION=RETENTION, RETENTION_FAILED=RETENTION, IDEMPOTENCY_TTL="120"):
        async with stage.api() as (_, port), stage.part("scheduler"), stage.part("worker"), stage.ledger() as conn:
            sizes = [await _minute(conn, port) for _ in range(minutes)]
            largest = await conn.fetchval(_LARGEST)
    await stage.sweep()
    first, later = sizes[settled - 1], sizes[settled:]
    low, high = min(later) / first, max(later) / first
    return [
        Row(
            f"size of the ledger at {RATE} jobs/s, minutes {settled + 1} to {minutes} : minute {settled}",
            f"{low:.2f}..{high:.2f} of {first:,.0f} MB",
            f"1 +- {WITHIN:g}",
            low >= 1 - WITHIN and high <= 1 + WITHIN,
        ),
        Row("its largest tables at the end", largest),
    ]


async def _minute(conn: "asyncpg.Connection[Any]", port: int) -> float:
    """The size at the end of it, in MB."""
    load = await asyncio.to_thread(drive, port, requests=RATE * 60, rate=RATE)
    size = await conn.fetchval(_SIZE) / 1e6
    print(f"{size:,.0f} MB, {await conn.fetchval(_JOBS):,} jobs; {load.rate:.0f} accepted a second", flush=True)
    return float(size)
