"""What is to happen once in a while over all schedulers: whoever updates the row of a round first has its turn."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_BEGIN = text("INSERT INTO rounds (name, done_at) VALUES (:name, now()) ON CONFLICT DO NOTHING")
_TAKE = text("""
INSERT INTO rounds AS r (name, done_at) VALUES (:name, now())
ON CONFLICT (name) DO UPDATE SET done_at = now()
    WHERE r.done_at <= now() - CAST(:every AS float8) * interval '1 second'
RETURNING name
""")


async def begin(conn: AsyncConnection, name: str) -> None:
    """Let the time of a round run from now on, if it never ran before. The caller commits."""
    await conn.execute(_BEGIN, {"name": name})


async def take(conn: AsyncConnection, name: str, every: float) -> bool:
    """Whether this transaction may do the round: nobody has for `every` seconds. The caller commits."""
    return (await conn.execute(_TAKE, {"name": name, "every": every})).first() is not None
