"""Jobs that the SQL function `accepted.submit` has made in its caller's transaction (docs/decisions/0034).

The function writes the job and its outbox row, and locks no row that others write. So what an HTTP submission does with
such rows is left to the scheduler: it finds a row for each job in `transactional_submissions`, from the commit on.
"""

from collections import Counter

from accepted.domain.monitoring.statistics import Series
from accepted.storage.db.statements import Connection, Statement

CHANNEL = "accepted_submitted"
"""Notifies the scheduler when a transaction that has called `accepted.submit` commits."""

_TAKE = Statement("""
WITH taken AS (
    DELETE FROM transactional_submissions WHERE id = ANY(ARRAY(
        SELECT id FROM transactional_submissions ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    )) RETURNING tenant, queue, type
)
SELECT tenant, queue, type, CAST(count(*) AS int4) AS jobs FROM taken GROUP BY tenant, queue, type
""")


async def take(conn: Connection, limit: int) -> Counter[Series]:
    """Delete the rows of up to `limit` jobs, and return how many jobs there are of each series. The caller commits."""
    rows = await _TAKE.rows(conn, limit=limit)
    return Counter({(row["tenant"], row["queue"], row["type"]): row["jobs"] for row in rows})
