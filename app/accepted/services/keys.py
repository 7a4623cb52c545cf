"""API keys: created, shown once, stored as a hash, and cached for a few seconds when a request brings one."""

import base64
import hashlib
import hmac
import secrets
import time
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.ids import new_id
from accepted.domain.tenants import DEFAULT_TENANT, SCOPES, granted
from accepted.storage import tenants
from accepted.storage.db.engine import reading, transaction

PREFIX = "acc_"

MAX_AGE = 5.0
"""Seconds for which a key is cached, if nobody says before that a key has changed."""

MAX_CACHED = 10_000
"""Keys. A full cache is emptied."""


class Principal(msgspec.Struct, frozen=True):
    """The caller of a request, and what the caller may do: `scopes` with all that they include."""

    tenant: str
    scopes: frozenset[str]
    name: str = ""
    """The name of the key; empty when authentication is off."""


EVERYONE = Principal(DEFAULT_TENANT, frozenset(SCOPES))
"""The caller when authentication is off."""


class ApiKeyCache:
    """Finds the principal of a presented key."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._cached: dict[bytes, tuple[float, Principal | None]] = {}
        self._changes = 0

    def forget(self) -> None:
        """A key was created or revoked: look each of them up again."""
        self._changes += 1
        self._cached.clear()

    async def principal(self, presented: bytes) -> Principal | None:
        """The principal of this key; None for one that is unknown or revoked. Raises `LedgerUnavailable`."""
        hashed = hash_key(presented)
        now = time.monotonic()
        cached = self._cached.get(hashed)
        if cached is not None and now < cached[0]:
            return cached[1]
        changes = self._changes
        principal = await self._look_up(hashed)
        if len(self._cached) >= MAX_CACHED:
            self._cached.clear()
        if changes == self._changes:
            self._cached[hashed] = (now + MAX_AGE, principal)
        return principal

    async def _look_up(self, hashed: bytes) -> Principal | None:
        async with reading(self._engine) as conn:
            found = await tenants.find_key(conn, hashed)
        if found is None or not hmac.compare_digest(found[1], hashed) or found[0].revoked_at is not None:
            return None
        return Principal(found[0].tenant, granted(found[0].scopes), found[0].name)


async def create(engine: AsyncEngine, tenant: str, name: str, scopes: list[str]) -> tuple[UUID, str]:
    """Create a key. Returns its id and the key itself, which is not stored and cannot be read again."""
    key = PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    key_id = new_id()
    async with transaction(engine) as conn:
        await tenants.create_key(
            conn, key_id=key_id, tenant=tenant, name=name, scopes=scopes, hashed=hash_key(key.encode())
        )
        await conn.commit()
    return key_id, key


def hash_key(presented: bytes) -> bytes:
    """SHA-256. A key has 256 random bits, so a slow hash would protect nothing."""
    return hashlib.sha256(presented).digest()
