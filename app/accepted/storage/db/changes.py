"""The hint that jobs have changed, for those who wait for them: one NOTIFY a transaction, with the ids in it."""

from collections.abc import Sequence
from uuid import UUID

from accepted.storage.db.direct import Connection, Statement
from accepted.storage.db.listening import EVERYTHING

CHANNEL = "accepted_changed"

MOST = 200
"""Ids in a hint. A payload may have 8,000 bytes, and an id takes 37."""

HINT = f"""(
    SELECT CAST(pg_notify('{CHANNEL}', CASE WHEN count(*) > {MOST} THEN '{EVERYTHING}'
                                       ELSE string_agg(CAST(id AS text), ',') END) AS text)
    FROM {{rows}}
)"""
"""The hint as one more column of a statement that returns `rows`, which spares a round trip; sent once, if any."""

_NOTIFY = Statement("SELECT pg_notify(:channel, :ids)")


async def announce(conn: Connection, ids: Sequence[UUID]) -> None:
    """These jobs are changed by this transaction."""
    if ids:
        hint = ",".join(map(str, ids)) if len(ids) <= MOST else EVERYTHING
        await _NOTIFY.rows(conn, channel=CHANNEL, ids=hint)


def read(payload: str) -> list[UUID] | None:
    """The ids in a hint; None stands for any job."""
    return None if payload == EVERYTHING else [UUID(part) for part in payload.split(",")]
