"""Statistics by series and minute, for charts: 14 days of them, in a number of rows with a bound.

A row holds what was counted in one `MINUTE`; after `MINUTES_KEPT` the rows of `TEN_MINUTES` become one, and after
`KEPT` that is deleted. So a series has at most 3,526 rows. There are `MOST_SERIES` series, of which one tenant has at
most `MOST_OF_TENANT`; what a tenant does beyond counts in one more series of its own, `OTHERS`. One more is its total.
So the table has at most 3,526 rows for each of 300 series, and twice as many for each tenant: 1.1 million for 10.

Processes add up what they count, and write it every few seconds. No request and no job waits for any of this.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.monitoring.statistics import COUNTED, LARGEST, OTHERS, Series, total_of
from accepted.storage.db.statements import Connection, Row, Statement

MINUTE = 60
TEN_MINUTES = 600
MINUTES_KEPT = 25 * 3600
KEPT = 14 * 86400
"""Seconds. The minutes are kept for a little longer than a day, which is what charts of minutes show."""

MOST_SERIES = 300
MOST_OF_TENANT = 100

ROLLED_UP = 3600
"""Seconds of minutes that become rows of ten minutes in one statement, of each series."""

_GIVEN = f"""json_to_recordset(CAST(:counts AS json)) AS g(
    tenant text, queue text, type text, {", ".join(f"{name} int8" for name in COUNTED)}, depth int8, oldest float8
)"""

_SUMS = ", ".join(f"CAST(COALESCE(sum({{row}}.{name}), 0) AS int8) AS {name}" for name in COUNTED)

_ADDED = ", ".join(
    [
        *(f"{name} = s.{name} + excluded.{name}" for name in COUNTED),
        *(f"{name} = GREATEST(s.{name}, excluded.{name})" for name in LARGEST),
    ]
)

_COLUMNS = ", ".join([*COUNTED, *LARGEST])

_NEW = Statement(f"""
SELECT count(*) FROM {_GIVEN} LEFT JOIN statistic_series s USING (tenant, queue, type) WHERE s.id IS NULL
""")

_LOCK = Statement("LOCK TABLE statistic_series IN SHARE ROW EXCLUSIVE MODE")
"""Or two processes would make more series than there may be."""

_NAME = Statement(f"""
WITH named AS MATERIALIZED (
    SELECT tenant, count(*) AS series FROM statistic_series WHERE queue NOT IN ('', '{OTHERS}') GROUP BY tenant
), new AS MATERIALIZED (
    SELECT g.tenant, g.queue, g.type,
           row_number() OVER (ORDER BY g.tenant, g.queue, g.type)
               + (SELECT COALESCE(sum(series), 0) FROM named) AS number,
           row_number() OVER (PARTITION BY g.tenant ORDER BY g.queue, g.type) + COALESCE(n.series, 0) AS of_tenant
    FROM {_GIVEN} LEFT JOIN named n ON n.tenant = g.tenant
    WHERE g.queue NOT IN ('', '{OTHERS}') AND NOT EXISTS (
        SELECT FROM statistic_series s WHERE s.tenant = g.tenant AND s.queue = g.queue AND s.type = g.type
    )
)
INSERT INTO statistic_series (tenant, queue, type)
SELECT tenant, queue, type FROM new WHERE number <= {MOST_SERIES} AND of_tenant <= {MOST_OF_TENANT}
UNION
SELECT tenant, '{OTHERS}', '{OTHERS}' FROM new WHERE number > {MOST_SERIES} OR of_tenant > {MOST_OF_TENANT}
UNION
SELECT tenant, queue, type FROM {_GIVEN} WHERE queue IN ('', '{OTHERS}')
ON CONFLICT DO NOTHING
""")

_ADD = Statement(f"""
INSERT INTO statistics AS s (series, span, at, {_COLUMNS})
SELECT COALESCE(e.id, o.id), {MINUTE}, date_bin(interval '{MINUTE} seconds', now(), 'epoch'),
       {_SUMS.format(row="g")}, sum(g.depth), max(g.oldest)
FROM {_GIVEN}
LEFT JOIN statistic_series e ON e.tenant = g.tenant AND e.queue = g.queue AND e.type = g.type
LEFT JOIN statistic_series o ON o.tenant = g.tenant AND o.queue = '{OTHERS}' AND o.type = '{OTHERS}'
WHERE COALESCE(e.id, o.id) IS NOT NULL
GROUP BY 1 ORDER BY 1
ON CONFLICT (series, span, at) DO UPDATE SET {_ADDED}
""")

_ROLL_UP = Statement(f"""
WITH first AS MATERIALIZED (
    SELECT min(m.at) AS at FROM statistic_series x CROSS JOIN LATERAL (
        SELECT at FROM statistics WHERE series = x.id AND span = {MINUTE} ORDER BY at LIMIT 1
    ) AS m
), old AS (
    DELETE FROM statistics s USING statistic_series x, first f
    WHERE s.series = x.id AND s.span = {MINUTE} AND s.at < date_bin(interval '{TEN_MINUTES} seconds', LEAST(
        now() - interval '{MINUTES_KEPT} seconds', f.at + interval '{ROLLED_UP} seconds'
    ), 'epoch')
    RETURNING s.*
)
INSERT INTO statistics AS s (series, span, at, {_COLUMNS})
SELECT series, {TEN_MINUTES}, date_bin(interval '{TEN_MINUTES} seconds', at, 'epoch'),
       {_SUMS.format(row="old")}, max(depth), max(oldest)
FROM old GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (series, span, at) DO UPDATE SET {_ADDED}
""")

_PRUNE = Statement(f"""
DELETE FROM statistics s USING statistic_series x
WHERE s.series = x.id AND s.span = {TEN_MINUTES} AND s.at < now() - interval '{KEPT} seconds'
""")

_PRUNE_SERIES = Statement("""
DELETE FROM statistic_series x WHERE NOT EXISTS (SELECT FROM statistics s WHERE s.series = x.id)
""")
"""A process that reports on such a series at this moment is refused by the foreign key, and loses that report."""

_SERIES_OF = Statement("SELECT id, tenant, queue, type FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")

_READ = Statement(f"""
WITH wanted AS MATERIALIZED (
    SELECT id FROM statistic_series
    WHERE (CAST(:tenant AS text) IS NULL OR tenant = :tenant) AND (CAST(:queue AS text) IS NULL OR queue = :queue)
      AND (CAST(:type AS text) IS NULL OR type = :type)
), moments AS MATERIALIZED (
    SELECT s.at, {_SUMS.format(row="s")}, sum(s.depth) AS depth, max(s.oldest) AS oldest
    FROM wanted w JOIN statistics s ON s.series = w.id
    WHERE s.span IN ({MINUTE}, {TEN_MINUTES}) AND s.at >= :since GROUP BY s.at
), looks AS MATERIALIZED (
    SELECT s.at FROM statistic_series x JOIN statistics s ON s.series = x.id
    WHERE (x.tenant, x.queue, x.type) = ('', '', '') AND s.span IN ({MINUTE}, {TEN_MINUTES}) AND s.at >= :since
      AND s.depth IS NOT NULL
)
SELECT date_bin(CAST(:step AS float8) * interval '1 second', at, 'epoch') AS at, bool_or(looked) AS looked,
       {_SUMS.format(row="m")}, CAST(max(m.depth) AS int8) AS depth, max(m.oldest) AS oldest
FROM (SELECT moments.*, false AS looked FROM moments UNION ALL
      SELECT at, {", ".join("0" for _ in COUNTED)}, NULL, NULL, true FROM looks) AS m
GROUP BY 1 ORDER BY 1
""")
"""Depths of one moment add up over series, and the largest sum of a step is shown."""


async def add(conn: Connection, counts: Mapping[Series, Mapping[str, float]]) -> None:
    """Add these counts to the present minute. A depth is the largest of the minute. The caller commits."""
    given = _encode(counts)
    if await _NEW.value(conn, counts=given):
        await _LOCK.run(conn)
        await _NAME.run(conn, counts=given)
    await _ADD.run(conn, counts=given)


async def series_of(conn: Connection, job_ids: Sequence[UUID]) -> dict[UUID, Series]:
    """The series of each of these jobs, by its id."""
    rows = await _SERIES_OF.rows(conn, ids=list(job_ids))
    return {row["id"]: (row["tenant"], row["queue"], row["type"]) for row in rows}


async def roll_up(conn: Connection) -> int:
    """Turn old minutes into ten minutes, and delete what is past `KEPT`. Returns how many rows. The caller commits."""
    rows = await _ROLL_UP.count(conn) + await _PRUNE.count(conn)
    await _PRUNE_SERIES.run(conn)
    return rows


async def read(
    conn: Connection, *, tenant: str | None, queue: str | None, type: str | None, since: datetime, step: float
) -> Sequence[Row]:
    """A row for each step since `since` that has counts, with `COUNTED`, `LARGEST` and `at`, its beginning.

    None stands for every tenant, queue or type. `looked`: queues were looked at, so that no depth means none waited.
    """
    if queue is None and type is None:
        tenant, queue, type = total_of(tenant)
    return await _READ.rows(conn, tenant=tenant, queue=queue, type=type, since=since, step=float(step))


def _encode(counts: Mapping[Series, Mapping[str, float]]) -> str:
    given = [{"tenant": tenant, "queue": queue, "type": type, **of} for (tenant, queue, type), of in counts.items()]
    return msgspec.json.encode(given).decode()
