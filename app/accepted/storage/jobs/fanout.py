"""How many jobs have grown from one root: counted on the root's own row."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_COUNT = text("""
WITH root AS MATERIALIZED (
    SELECT id, descendants FROM jobs WHERE id = :root FOR NO KEY UPDATE
), counted AS (
    UPDATE jobs j SET descendants = j.descendants + :more FROM root
    WHERE j.id = root.id AND root.descendants + :more <= :most
    RETURNING j.id
)
SELECT NOT EXISTS (SELECT 1 FROM root) OR EXISTS (SELECT 1 FROM counted)
""")


async def grow(conn: AsyncConnection, root: UUID, more: int, most: int) -> bool:
    """Count `more` jobs under this root; False, and nothing is counted, when they would be over `most`.

    A root that is past its retention counts no more. The caller commits; until then others of this root wait.
    """
    return bool((await conn.execute(_COUNT, {"root": root, "more": more, "most": most})).scalar_one())
