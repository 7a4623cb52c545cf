"""Whether what people look at has changed: one cheap question for all open pages of a process.

It reads small tables, and of the statistics one row: its cost does not grow with the jobs.
"""

import msgspec

from accepted.domain.schedule import GRACE
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.monitoring.processes import HERE
from accepted.storage.queue_load import BIN
from accepted.storage.workers import ALIVE

_VERSIONS = Statement(f"""
SELECT md5(concat_ws(';',
    (SELECT string_agg(concat_ws(' ', p.id, p.drain_requested_at, w.blocked IS NULL), ',' ORDER BY p.id, w.id)
     FROM processes p LEFT JOIN workers w ON w.process = p.id WHERE {HERE}),
    EXISTS (SELECT 1 FROM workers w WHERE w.process IS NULL AND {ALIVE}),
    (SELECT max(at) > now() - interval '{4 * BIN} seconds' FROM queue_samples),
    (SELECT string_agg(concat_ws(' ', name, paused, max_running, rate_jobs, rate_per, max_running_per_key, max_depth),
                       ',' ORDER BY name) FROM queues),
    (SELECT concat_ws(' ', count(*), max(updated_at), count(*) FILTER (WHERE enabled),
                      count(*) FILTER (WHERE next_at < now() - interval '{GRACE.total_seconds()} seconds'))
     FROM schedules),
    (SELECT count(*) FROM targets WHERE deferred_until > now()),
    (SELECT count(*) FROM webhook_urls)
)) AS state,
(SELECT concat_ws(' ', s.accepted, s.started, s.succeeded, s.dead_letters, s.depth, s.at)
 FROM statistics s JOIN statistic_series x ON x.id = s.series
 WHERE (x.tenant, x.queue, x.type) = ('', '', '') ORDER BY s.span, s.at DESC LIMIT 1) AS figures
""")
"""`state`: which processes live, drain or are blocked, what is held, paused, limited or late. Nothing in it
changes with each job, or each call of an HTTP worker."""


class Versions(msgspec.Struct, frozen=True):
    """Other texts after every change."""

    state: str
    figures: str | None


UNKNOWN = Versions("", None)
"""While the ledger is away."""


async def versions(conn: Connection, lease_ttl: float) -> Versions:
    (row,) = await _VERSIONS.rows(conn, lease_ttl=float(lease_ttl))
    return struct(Versions, row)
