"""Signing in to the dashboard: an API key is exchanged for a session, whose token is a cookie (docs/decisions/0031).

The ledger has the hash of the token. Each request of a session looks up its key as a request with the key itself does,
so a session can do what its key can, and ends when that is revoked.
"""

import secrets

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.services.keys import ApiKeyCache, Principal, hash_key
from accepted.storage.access import sessions
from accepted.storage.db.engine import reading, transaction

LASTS = 12 * 3600
"""Seconds: a working day."""


class Session(msgspec.Struct, frozen=True):
    """Who has signed in, and the hash of their API key."""

    who: Principal
    key_hash: bytes


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(32)


async def begin(engine: AsyncEngine, keys: ApiKeyCache, key: str) -> str | None:
    """The token of a new session of this API key; None if the key is unknown or revoked."""
    who = await keys.principal(key.strip().encode())
    if who is None or who.key_id is None:
        return None
    token = new_token()
    async with transaction(engine) as conn:
        await sessions.create(conn, hash_key(token.encode()), who.key_id, LASTS)
        await conn.commit()
    return token


async def find(engine: AsyncEngine, keys: ApiKeyCache, token: str) -> Session | None:
    """The session of this token, while it lasts and its key is valid."""
    async with reading(engine) as conn:
        key_hash = await sessions.key_hash(conn, hash_key(token.encode()))
    who = None if key_hash is None else await keys.principal_of(key_hash)
    return None if key_hash is None or who is None else Session(who, key_hash)


async def end(engine: AsyncEngine, token: str) -> None:
    """Sign out."""
    async with transaction(engine) as conn:
        await sessions.delete(conn, hash_key(token.encode()))
        await conn.commit()
