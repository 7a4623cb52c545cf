"""Sessions of people who have signed in to the dashboard, by the SHA-256 of their token (docs/decisions/0031).

A session stands for its API key and has no rights of its own: it ends with the key.
"""

from uuid import UUID

from accepted.storage.db.statements import Connection, Statement

_CREATE = Statement("""
INSERT INTO sessions (hash, key_id, expires_at)
SELECT :hash, id, now() + CAST(:seconds AS float8) * interval '1 second' FROM api_keys WHERE id = :key_id
""")
_KEY_HASH = Statement("""
SELECT k.hash FROM sessions s JOIN api_keys k ON k.id = s.key_id WHERE s.hash = :hash AND s.expires_at > now()
""")
_DELETE = Statement("DELETE FROM sessions WHERE hash = :hash")


async def create(conn: Connection, hashed: bytes, key_id: UUID, seconds: float) -> None:
    """Insert a session of this key that lasts for so long. The caller commits."""
    await _CREATE.run(conn, hash=hashed, key_id=key_id, seconds=seconds)


async def key_hash(conn: Connection, hashed: bytes) -> bytes | None:
    """The hash of the session's API key, which may be revoked; None: there is no such session, or it has expired."""
    found: bytes | None = await _KEY_HASH.value(conn, hash=hashed)
    return found


async def delete(conn: Connection, hashed: bytes) -> None:
    """End a session. The caller commits."""
    await _DELETE.run(conn, hash=hashed)
