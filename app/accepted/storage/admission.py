"""Admitting rows of a locked queue: which come first is the order of service (docs/waiting.md).

Tenants take turns (`accepted.domain.turns`), within a tenant its concurrency keys, within a key the highest priority is
first, then the row that is due first.
"""

from collections.abc import Mapping, Sequence

import msgspec

from accepted.domain.job import INTERNAL_TYPES
from accepted.domain.network import targets as rules
from accepted.domain.references import JobRef
from accepted.domain.turns import Offer
from accepted.storage.db.statements import Connection, Row, Statement, struct
from accepted.storage.limiter import WAITS, LockedQueue
from accepted.storage.room import WANTED, Room

_NOT_PASSED_OVER = "(o.unserved = '' OR CAST(:types AS text[]) IS NULL OR o.unserved = ANY(CAST(:types AS text[])))"
"""Whether a row was not set aside, or a worker process with a free slot serves its type (:types)."""

_SERVED = "(CAST(:types AS text[]) IS NULL OR type IS NULL OR type = ANY(CAST(:types AS text[])))"
"""Whether one of :types is the type of a chosen row. A row without a job is taken for one: its claim deletes it."""

LOOK = 500
"""Rows of each tenant among which the types that nobody serves are looked for, once one was met: there may be many."""

_NEXT_KEY = """
    SELECT o.concurrency_key FROM outbox o WHERE {waits} AND o.tenant = f.tenant AND o.concurrency_key > {after}
    ORDER BY o.concurrency_key LIMIT 1
"""

_MEMBER = """
    SELECT o.job_id, o.unserved, row_number() OVER (ORDER BY o.priority DESC, o.due_at) AS rank
    FROM outbox o WHERE {waits} AND o.tenant = s.tenant AND {key} ORDER BY o.priority DESC, o.due_at LIMIT {limit}
"""

_RECEIVER_LIMIT = f"""CASE WHEN CAST(:deliveries AS bool) THEN GREATEST({rules.LEAST_AT_ONCE}, CAST({rules.BUDGET}
    / GREATEST(COALESCE(v.seconds, {rules.UNKNOWN}), b.age, {rules.BUDGET / rules.MOST_AT_ONCE}) AS int4)) END"""
"""By how long the receiver took to answer, and by the age of the oldest delivery that it has not answered yet."""


def _admit(waits: str, served: str, fits: str, set_aside: str) -> Statement:
    return Statement(f"""
WITH offered AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:tenants AS text[]), CAST(:sizes AS int4[]), CAST(:held AS int4[]), CAST(:weights AS int4[]),
        CAST(:steps AS int4[]), CAST(:last_keys AS text[])
    ) WITH ORDINALITY AS f(tenant, size, held, weight, steps, last_key, turn)
), ring AS MATERIALIZED (
    SELECT f.tenant, k.key, k.place FROM offered f CROSS JOIN LATERAL (
        WITH RECURSIVE later(key, place) AS (
            SELECT ({_NEXT_KEY.format(waits=waits, after="COALESCE(f.last_key, '')")}), 1
            UNION ALL
            SELECT ({_NEXT_KEY.format(waits=waits, after="l.key")}), l.place + 1
            FROM later l WHERE l.key IS NOT NULL AND l.place < f.steps
        ), earlier(key, place) AS (
            SELECT ({_NEXT_KEY.format(waits=waits, after="''")}), 1 WHERE f.last_key IS NOT NULL
            UNION ALL
            SELECT ({_NEXT_KEY.format(waits=waits, after="e.key")}), e.place + 1
            FROM earlier e WHERE e.key < f.last_key AND e.place < f.steps
        )
        SELECT key, place FROM later WHERE key IS NOT NULL
        UNION ALL
        SELECT key, f.steps + 1 + place FROM earlier WHERE key <= f.last_key
    ) AS k
), share AS MATERIALIZED (
    SELECT f.*, CEIL(CAST(f.size AS float8) / (1 + (SELECT count(*) FROM ring r WHERE r.tenant = f.tenant))) AS of_key
    FROM offered f
), busy AS MATERIALIZED (
    SELECT tenant, key, count(*) AS n, CAST(EXTRACT(epoch FROM clock_timestamp() - min(since)) AS float8) AS age FROM (
        SELECT o.tenant, o.concurrency_key AS key, NULL AS since FROM outbox o WHERE o.queue = :queue AND o.admitted
        UNION ALL
        SELECT j.tenant, j.concurrency_key, t.started_at
        FROM attempts t CROSS JOIN LATERAL (
            SELECT tenant, queue, concurrency_key FROM jobs WHERE id = t.job_id OFFSET 0
        ) AS j WHERE t.finished_at IS NULL AND j.queue = :queue
    ) AS taken
    WHERE (CAST(:per_key AS int4) IS NOT NULL OR CAST(:deliveries AS bool)) AND key IS NOT NULL GROUP BY tenant, key
), chosen AS MATERIALIZED (
    SELECT w.job_id, w.unserved, w.rank, s.tenant, r.place
    FROM ring r JOIN share s ON s.tenant = r.tenant
    LEFT JOIN busy b ON b.tenant = r.tenant AND b.key = r.key
    LEFT JOIN receivers v ON CAST(:deliveries AS bool) AND v.key = r.key
    CROSS JOIN LATERAL ({
        _MEMBER.format(
            waits=waits,
            key="o.concurrency_key = r.key",
            limit=f'''GREATEST(LEAST(s.of_key,
                LEAST(CAST(:per_key AS int4), {_RECEIVER_LIMIT}) - COALESCE(b.n, 0)), 0)''',
        )
    }) AS w
    UNION ALL
    SELECT w.job_id, w.unserved, w.rank, s.tenant, s.steps + 1 FROM share s CROSS JOIN LATERAL ({
        _MEMBER.format(waits=waits, key="o.concurrency_key IS NULL", limit="s.of_key")
    }) AS w
), known AS MATERIALIZED (
    SELECT id, type, traceparent FROM jobs WHERE id = ANY(ARRAY(SELECT job_id FROM chosen))
), typed AS MATERIALIZED (
    SELECT c.*, k.type, k.traceparent, CASE WHEN NOT {_SERVED} THEN type ELSE unserved END AS aside
    FROM chosen c LEFT JOIN known k ON k.id = c.job_id
), of_tenant AS (
    SELECT *, row_number() OVER (PARTITION BY tenant ORDER BY rank, place) AS number FROM typed WHERE {served}
), turned AS (
    SELECT c.*, s.turn, (s.held + c.number - 1) / s.weight AS round
    FROM of_tenant c JOIN share s ON s.tenant = c.tenant WHERE c.number <= s.size
), first AS MATERIALIZED (
    SELECT * FROM (
        SELECT *, row_number() OVER (PARTITION BY type ORDER BY round, turn, number) AS nth FROM turned
    ) AS each WHERE {fits} ORDER BY round, turn, number LIMIT :room
), met AS MATERIALIZED (
    SELECT job_id, aside FROM typed WHERE {set_aside}
), locked AS MATERIALIZED (
    SELECT job_id FROM outbox WHERE on_hold AND due_at < 'infinity'
        AND job_id = ANY(ARRAY(SELECT job_id FROM first UNION ALL SELECT job_id FROM met))
    ORDER BY job_id FOR UPDATE SKIP LOCKED
), admitted AS (
    UPDATE outbox o SET
        on_hold = false, admitted = true, unserved = (SELECT f.aside FROM first f WHERE f.job_id = o.job_id),
        published = CAST(:hold AS float8) IS NULL OR (SELECT f.aside FROM first f WHERE f.job_id = o.job_id) <> '',
        due_at = now() + COALESCE(CAST(:hold AS float8), 0) * interval '1 second'
    WHERE job_id = ANY(ARRAY(SELECT job_id FROM locked INTERSECT SELECT job_id FROM first))
    RETURNING job_id, attempt, tenant, queue, priority, concurrency_key
), set_aside AS (
    UPDATE outbox o SET unserved = (SELECT m.aside FROM met m WHERE m.job_id = o.job_id)
    WHERE job_id = ANY(ARRAY(SELECT job_id FROM locked INTERSECT SELECT job_id FROM met))
    RETURNING job_id
)
SELECT a.*, f.type, f.traceparent, aside.n AS set_aside
FROM (SELECT count(*) AS n FROM set_aside) AS aside
LEFT JOIN (admitted a JOIN first f ON f.job_id = a.job_id AND f.type IS NOT NULL) ON true
ORDER BY f.round, f.turn, f.number
""")


_FITS = """(CAST(:types AS text[]) IS NULL OR type IS NULL
        OR nth <= (CAST(:slots AS int4[]))[array_position(CAST(:types AS text[]), type)])"""
"""No more rows of a type than there are free slots of those who serve it: others need the rest of the room."""

_ADMIT = _admit(f"{WAITS} AND {_NOT_PASSED_OVER}", _SERVED, _FITS, f"unserved = '' AND NOT {_SERVED}")
"""One statement, because what is admitted must be what is counted. The round robin visits the keys of a tenant after
its `last_key` by a loose index scan, one probe a key, and reads only the share of each key: jobs behind it cost
nothing. Ids are passed on as arrays, as in `accepted.storage.jobs.outbox`: PostgreSQL may plan a join as a scan of all
waiting rows. Rows of types without a free slot (:types, with so many :slots each) are set aside, so they are read once
and hide nothing.
"""

_ADMIT_WANTED = _admit(f"{WAITS} AND {WANTED}", "true", "true", "false")
"""Skips, one by one, rows that no lease request can take, as the lease claim does. Those that no worker process serves
(:types) are set aside as they are admitted: no broker may bring their references to one."""


class Admitted(msgspec.Struct, frozen=True):
    """References in the order in which they were admitted, the tenant of each, and the key that was served last of
    each tenant.

    `set_aside`: rows of types without a free slot were met, so others may wait behind them.
    """

    refs: list[JobRef]
    tenants: list[str]
    last_keys: Mapping[str, str | None]
    set_aside: bool = False


async def admit(
    conn: Connection, queue: str, limit: int, locked: LockedQueue, room: Room, offers: Sequence[Offer],
    hold: float | None,
) -> Admitted:  # fmt: skip
    """Admit up to `limit` rows of a locked queue, of those that are offered, for the slots of worker processes.

    Each as far as they serve its type: it may be fewer than there is room for. Of each tenant, as many keys are read as
    its offer is large, beside those that run jobs. The caller publishes the rows within `hold` seconds, else the relay
    does; None: its commit publishes them. Rows that were set aside are claimed from the ledger. Rows of types without a
    free slot are set aside, up to `LOOK` of each tenant.
    """
    values = _values(queue, locked, offers, hold) | {"types": room.able, "slots": room.able_slots}
    admitted = _admitted(await _ADMIT.rows(conn, **values, room=limit))
    if admitted.set_aside:
        await _ADMIT.rows(conn, **values | {"sizes": [LOOK] * len(offers)}, room=0)
    return admitted


async def admit_wanted(
    conn: Connection, queue: str, limit: int, locked: LockedQueue, room: Room, offers: Sequence[Offer],
    hold: float | None, lease_ttl: float,
) -> Admitted:  # fmt: skip
    """As `admit`, rows that a waiting lease request can take. Those that no worker process serves are set aside."""
    values = _values(queue, locked, offers, hold) | {"types": room.types, "lease_ttl": lease_ttl}
    return _admitted(await _ADMIT_WANTED.rows(conn, **values, room=limit, internal=list(INTERNAL_TYPES)))


def _values(queue: str, locked: LockedQueue, offers: Sequence[Offer], hold: float | None) -> dict[str, object]:
    return {
        "queue": queue, "per_key": locked.max_running_per_key, "hold": hold, "deliveries": locked.deliveries,
        "tenants": [one.tenant for one in offers], "sizes": [one.size for one in offers],
        "held": [one.held for one in offers], "weights": [one.weight for one in offers],
        "steps": [one.size + one.here for one in offers], "last_keys": [one.last_key for one in offers],
    }  # fmt: skip


def _admitted(rows: Sequence[Row]) -> Admitted:
    found = [row for row in rows if row["job_id"] is not None]
    return Admitted(
        [struct(JobRef, row) for row in found],
        [row["tenant"] for row in found],
        {row["tenant"]: row["concurrency_key"] for row in found},
        set_aside=rows[0]["set_aside"] > 0,
    )
