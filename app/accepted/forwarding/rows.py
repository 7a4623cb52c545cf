"""The rows of a caller's outbox (`accepted.outbox`): taken, put off, stopped, deleted.

To take a row is to move its `due_at` on, so that no other forwarder takes it meanwhile and it comes due again if this
one dies. No transaction is open while a job is on its way.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg

from accepted.domain.network.servers import PostgresUrl

Outbox: TypeAlias = "asyncpg.Connection[Any]"

COMMAND_TIMEOUT = 10.0
"""Seconds."""

KEY_EXPIRED = "key_expired"
"""Why a row is stopped whose job may be there: its key is forgotten, so one more try could make another."""

_TAKE = """
UPDATE accepted_outbox SET
    tried_at = COALESCE(tried_at, now()), due_at = now() + CAST($2 AS float8) * interval '1 second'
WHERE id = ANY(ARRAY(
    SELECT id FROM accepted_outbox
    WHERE due_at <= now() AND stopped IS NULL
      AND COALESCE(tried_at > now() - CAST($3 AS float8) * interval '1 second', true)
    ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
))
RETURNING id, CAST(body AS text) AS body, tried_at = now() AS fresh, due_at AS taken_until
"""

_STOP_OLD = f"""
UPDATE accepted_outbox SET stopped = '{KEY_EXPIRED}', due_at = 'infinity'
WHERE stopped IS NULL AND tried_at <= now() - CAST($1 AS float8) * interval '1 second'
"""

_STOP = """
UPDATE accepted_outbox SET
    stopped = $3, due_at = 'infinity', tried_at = CASE WHEN NOT CAST($4 AS bool) THEN tried_at END
WHERE id = $1 AND due_at = $2
"""

_PUT_OFF = """
UPDATE accepted_outbox AS o SET
    due_at = now() + CAST($3 AS float8) * interval '1 second', tried_at = CASE WHEN NOT o.id = ANY($4) THEN tried_at END
FROM unnest(CAST($1 AS uuid[]), CAST($2 AS timestamptz[])) AS taken(id, taken_until)
WHERE o.id = taken.id AND o.due_at = taken.taken_until
"""

_DELETE = "DELETE FROM accepted_outbox WHERE id = ANY($1)"

_BACKLOG = """
SELECT count(*) FILTER (WHERE stopped IS NULL) AS waiting, count(stopped) AS stopped,
       CAST(COALESCE(EXTRACT(epoch FROM now() - min(created_at) FILTER (WHERE stopped IS NULL)), 0) AS float8) AS oldest
FROM accepted_outbox
"""


class OutboxRow(NamedTuple):
    """A job to submit: its idempotency key, and the body of POST /jobs. `fresh`: it was not tried before.

    After `taken_until` it may be another forwarder's.
    """

    id: UUID
    body: str
    fresh: bool
    taken_until: datetime


class OutboxBacklog(NamedTuple):
    """How many rows wait, how many are stopped, and for how many seconds the oldest one waits."""

    waiting: int
    stopped: int
    oldest: float


async def connect(url: str) -> Outbox:
    """Raises what asyncpg raises, and `ValueError` for a URL with which no connection could be opened."""
    settings = {"application_name": "accepted forward"}
    driver = PostgresUrl.parse(url).for_driver
    return await asyncpg.connect(driver, timeout=5, command_timeout=COMMAND_TIMEOUT, server_settings=settings)


async def take(conn: Outbox, limit: int, hold: float, lifetime: float) -> list[OutboxRow]:
    """Take up to `limit` due rows for `hold` seconds, none of which was first tried more than `lifetime` s ago."""
    return [OutboxRow(**row) for row in await conn.fetch(_TAKE, limit, hold, lifetime)]


async def stop_old(conn: Outbox, lifetime: float) -> int:
    """Stop the rows that were first tried more than `lifetime` seconds ago, and return how many."""
    return int((await conn.execute(_STOP_OLD, lifetime)).rsplit(" ", 1)[-1])


async def stop(conn: Outbox, taken: OutboxRow, reason: str) -> None:
    """Stop a row that the service refuses, unless another forwarder has taken it. Its key is not used up: mended and
    released, however late, it is tried as if for the first time, if that was its first try."""
    await conn.execute(_STOP, taken.id, taken.taken_until, reason, taken.fresh)


async def put_off(conn: Outbox, taken: Sequence[OutboxRow], seconds: float, untried: Collection[UUID]) -> None:
    """Let these rows come due again after so many seconds, unless another forwarder has taken them. Those of `untried`
    count as not tried yet."""
    ids, until = [row.id for row in taken], [row.taken_until for row in taken]
    await conn.execute(_PUT_OFF, ids, until, seconds, list(untried))


async def delete(conn: Outbox, ids: Collection[UUID]) -> None:
    """Delete rows whose jobs are there."""
    await conn.execute(_DELETE, list(ids))


async def backlog(conn: Outbox) -> OutboxBacklog:
    row = await conn.fetchrow(_BACKLOG)
    assert row is not None
    return OutboxBacklog(row["waiting"], row["stopped"], row["oldest"])
