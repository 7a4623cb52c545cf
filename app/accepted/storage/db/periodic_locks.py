"""Periodic locks: what happens once in a period over all schedulers. The first one to update the row may do it."""

from accepted.storage.db.statements import Connection, Statement

_START = Statement("INSERT INTO periodic_locks (name, taken_at) VALUES (:name, now()) ON CONFLICT DO NOTHING")
_TAKE = Statement("""
INSERT INTO periodic_locks AS l (name, taken_at) VALUES (:name, now())
ON CONFLICT (name) DO UPDATE SET taken_at = now()
    WHERE l.taken_at <= now() - CAST(:period AS float8) * interval '1 second' OR l.taken_at > clock_timestamp()
RETURNING name
""")
"""A lock taken in the future is from before the clock was set back."""


async def start(conn: Connection, name: str) -> None:
    """Start the first period now, unless the lock exists already. The caller commits."""
    await _START.run(conn, name=name)


async def take(conn: Connection, name: str, period: float) -> bool:
    """Take the lock if it was not taken for `period` seconds, and say whether it was. The caller commits."""
    return await _TAKE.first(conn, name=name, period=period) is not None
