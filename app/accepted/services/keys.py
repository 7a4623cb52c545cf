"""API keys: made, shown once, kept as a hash, and looked up for each request with a short memory."""

import base64
import hashlib
import hmac
import secrets
import time
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.ids import new_id
from accepted.domain.tenants import SCOPES
from accepted.storage import tenants
from accepted.storage.db.engine import reading, transaction

PREFIX = "acc_"
DEFAULT_TENANT = "default"

REMEMBERED = 5.0
"""Seconds for which a looked-up key is believed: how long a revoked one may go on working."""

MOST_REMEMBERED = 10_000


class Principal(msgspec.Struct, frozen=True):
    """Who is calling, and what he may do."""

    tenant: str
    scopes: frozenset[str]
    name: str = ""
    """What the key was called when it was made; empty when no key was needed."""


EVERYONE = Principal(DEFAULT_TENANT, frozenset(SCOPES))
"""Who calls when authentication is off."""


class Keys:
    """Turns a presented key into a principal."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._remembered: dict[bytes, tuple[float, Principal | None]] = {}

    async def principal(self, presented: bytes) -> Principal | None:
        """Who holds this key; None for a key that is unknown or revoked. Raises `LedgerUnavailable`."""
        hashed = hash_key(presented)
        now = time.monotonic()
        remembered = self._remembered.get(hashed)
        if remembered is not None and now < remembered[0]:
            return remembered[1]
        principal = await self._look_up(hashed)
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[hashed] = (now + REMEMBERED, principal)
        return principal

    async def _look_up(self, hashed: bytes) -> Principal | None:
        async with reading(self._engine) as conn:
            found = await tenants.find_key(conn, hashed)
        if found is None or not hmac.compare_digest(found[1], hashed) or found[0].revoked_at is not None:
            return None
        return Principal(found[0].tenant, frozenset(found[0].scopes), found[0].name)


async def create(engine: AsyncEngine, tenant: str, name: str, scopes: list[str]) -> tuple[UUID, str]:
    """Make a key. Returns its id and the key itself, which cannot be had again."""
    key = PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    key_id = new_id()
    async with transaction(engine) as conn:
        await tenants.create_key(
            conn, key_id=key_id, tenant=tenant, name=name, scopes=scopes, hashed=hash_key(key.encode())
        )
        await conn.commit()
    return key_id, key


def hash_key(presented: bytes) -> bytes:
    """SHA-256: a key has 256 random bits, so there is nothing for a slow hash to protect."""
    return hashlib.sha256(presented).digest()
