"""Dead letters by error: how many failed alike, counted as letters come and go (docs/decisions/0024).

A letter is written with the key of its group. A trigger on `dead_letters` appends a row to `dead_letter_moves` for each
letter that is written or deleted, in the same transaction; the scheduler deletes these rows and adds them to
`dead_letter_groups` (`add_up`). The groups with the moves that are left are exact at each moment.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.failures import pattern
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.dead_letters import MATCHES, MATCHES_KIND, LetterFilter

GROUP_KEY = "sha256(convert_to(CAST(json_build_array(type, queue, class, pattern) AS text), 'UTF8'))"
"""The group of a letter, from its type, queue, class, and the pattern of its message (`failures.pattern`)."""

_KINDS = "group_key, queue, type, class"

_KEPT = f"""
WITH moves AS MATERIALIZED (
    SELECT {_KINDS}, sum(letters) AS letters, max(failed_at) AS last_at FROM dead_letter_moves
    WHERE tenant = :tenant GROUP BY {_KINDS}
), largest AS MATERIALIZED (
    SELECT {_KINDS}, letters, last_at FROM dead_letter_groups d WHERE {MATCHES_KIND}
    ORDER BY letters DESC, last_at DESC LIMIT :limit + (SELECT count(*) FROM moves)
), counted AS (
    SELECT {_KINDS}, letters, last_at FROM largest WHERE group_key NOT IN (SELECT group_key FROM moves)
    UNION ALL
    SELECT g.group_key, g.queue, g.type, g.class, g.letters, g.last_at
    FROM moves m JOIN dead_letter_groups g ON g.tenant = :tenant AND g.group_key = m.group_key
    UNION ALL
    SELECT {_KINDS}, letters, last_at FROM moves
), chosen AS MATERIALIZED (
    SELECT {_KINDS}, CAST(sum(letters) AS int8) AS count, max(last_at) AS last_at
    FROM (SELECT CAST(:tenant AS text) AS tenant, c.* FROM counted c) AS d WHERE {MATCHES_KIND}
    GROUP BY {_KINDS} HAVING sum(letters) > 0
    ORDER BY count DESC, last_at DESC LIMIT :limit
)
"""
"""The moves can change the order of no more groups than they are of: so many more are read."""

_SHOWN = """
SELECT c.type, c.queue, c.class, n.message, c.count, o.first_at, n.last_at, n.example
FROM chosen c
CROSS JOIN LATERAL (
    SELECT job_id AS example, message, failed_at AS last_at FROM dead_letters
    WHERE tenant = :tenant AND group_key = c.group_key ORDER BY failed_at DESC, job_id LIMIT 1
) AS n
CROSS JOIN LATERAL (
    SELECT failed_at AS first_at FROM dead_letters
    WHERE tenant = :tenant AND group_key = c.group_key ORDER BY failed_at LIMIT 1
) AS o
ORDER BY c.count DESC, n.last_at DESC
"""

_LARGEST = Statement(_KEPT + _SHOWN)

_MATCHING = Statement(f"""
WITH chosen AS MATERIALIZED (
    SELECT {_KINDS}, count(*) AS count, min(failed_at) AS first_at, max(failed_at) AS last_at
    FROM dead_letters d WHERE {MATCHES}
    GROUP BY {_KINDS} ORDER BY count DESC, last_at DESC LIMIT :limit
)
SELECT c.type, c.queue, c.class, n.message, c.count, c.first_at, c.last_at, n.example
FROM chosen c
CROSS JOIN LATERAL (
    SELECT d.job_id AS example, d.message FROM dead_letters d
    WHERE d.group_key = c.group_key AND {MATCHES} ORDER BY d.failed_at DESC, d.job_id LIMIT 1
) AS n
ORDER BY c.count DESC, c.last_at DESC
""")

_ADD_UP = Statement(f"""
WITH taken AS MATERIALIZED (
    SELECT id FROM dead_letter_moves ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM dead_letter_moves m USING taken t WHERE m.id = t.id
    RETURNING m.tenant, m.group_key, m.queue, m.type, m.class, m.letters, m.failed_at
), added AS (
    INSERT INTO dead_letter_groups AS g (tenant, {_KINDS}, letters, last_at)
    SELECT tenant, {_KINDS}, sum(letters), max(failed_at) FROM gone
    GROUP BY tenant, {_KINDS} ORDER BY tenant, group_key
    ON CONFLICT (tenant, group_key) DO UPDATE
        SET letters = g.letters + excluded.letters, last_at = GREATEST(g.last_at, excluded.last_at)
)
SELECT count(*) FROM taken
""")
"""Rows of groups are locked in the order of their keys, so two schedulers cannot deadlock."""

_BY_QUEUE = Statement("""
SELECT queue, CAST(sum(letters) AS int8) AS letters FROM (
    SELECT queue, letters FROM dead_letter_groups UNION ALL SELECT queue, letters FROM dead_letter_moves
) AS counted GROUP BY queue HAVING sum(letters) > 0
""")

_FORGET = Statement("""
WITH empty AS MATERIALIZED (
    SELECT tenant, group_key FROM dead_letter_groups WHERE letters = 0
    ORDER BY tenant, group_key LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM dead_letter_groups g USING empty e WHERE g.tenant = e.tenant AND g.group_key = e.group_key
""")


class LetterGroup(msgspec.Struct, frozen=True):
    """Letters that failed alike: their messages differ only in numbers and ids, which are shown as `…`.

    `example` is the newest.
    """

    type: str
    queue: str
    class_: str = msgspec.field(name="class")
    message: str
    count: int
    first_at: datetime
    last_at: datetime
    example: UUID


async def groups(conn: Connection, tenant: str, wanted: LetterFilter, limit: int) -> Sequence[LetterGroup]:
    """The `limit` largest groups. Letters are counted only for a filter that parts of a group may match."""
    splits = wanted.before is not None or wanted.ids is not None
    statement = _MATCHING if splits else _LARGEST
    found = await statement.rows(conn, **wanted.values(tenant), limit=limit)
    return [struct(LetterGroup, {**row, "message": pattern(row["message"])}) for row in found]


async def by_queue(conn: Connection) -> dict[str, int]:
    """The dead letters of all tenants, by queue."""
    return {row["queue"]: row["letters"] for row in await _BY_QUEUE.rows(conn)}


async def add_up(conn: Connection, limit: int) -> int:
    """Add up to `limit` moves to their groups. Returns how many. The caller commits."""
    return int(await _ADD_UP.value(conn, limit=limit))


async def forget_empty(conn: Connection, limit: int) -> None:
    """Delete up to `limit` groups without a letter. The caller commits."""
    await _FORGET.run(conn, limit=limit)
