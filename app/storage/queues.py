"""The names of the queues there are. A queue exists as soon as a job names it."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.tables import queues


async def names(conn: AsyncConnection) -> list[str]:
    """Every queue, by name."""
    return [row[0] for row in await conn.execute(select(queues.c.name).order_by(queues.c.name))]
