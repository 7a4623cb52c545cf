"""API keys: created, shown once, stored as a hash, and cached for a few seconds when a request brings one.

What waits under a key ends when the key is revoked.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.concurrency import cancel_requested
from accepted.domain.ids import new_id
from accepted.domain.monitoring.audit import Action
from accepted.domain.tenants import DEFAULT_TENANT, OPERATOR_SCOPE, SCOPES, granted
from accepted.errors import LedgerUnavailable, Unauthenticated
from accepted.services.monitoring import audit
from accepted.storage import tenants
from accepted.storage.db.engine import reading, transaction

PREFIX = "acc_"

MAX_AGE = 5.0
"""Seconds for which a key is cached, if nobody says before that a key has changed."""

MAX_CACHED = 10_000
"""Keys. A full cache is emptied."""

LEDGER_AWAY = 0.5
"""Seconds between two questions to a ledger that is away."""


class Principal(msgspec.Struct, frozen=True):
    """The caller of a request, and what the caller may do: `scopes` with all that they include."""

    tenant: str
    scopes: frozenset[str]
    name: str = ""
    """The name of the key; empty when authentication is off."""
    key_id: UUID | None = None

    @property
    def sees(self) -> str | None:
        """The tenant whose jobs and acts the caller sees; None: those of all."""
        return None if OPERATOR_SCOPE in self.scopes else self.tenant


EVERYONE = Principal(DEFAULT_TENANT, frozenset(SCOPES))
"""The caller when authentication is off."""


class ApiKeyCache:
    """Finds the principal of a presented key."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._cached: dict[bytes, tuple[float, Principal | None]] = {}
        self._changes = 0
        self._changed = asyncio.Event()
        self._waiting: dict[bytes, set[asyncio.Timeout]] = {}

    def forget(self) -> None:
        """A key was created or revoked: look each of them up again."""
        self._changes += 1
        self._cached.clear()
        self._changed.set()

    async def run(self) -> None:
        """End what waits under a key that is revoked, until cancelled."""
        while not cancel_requested():
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._end_revoked()
            except LedgerUnavailable:
                self._changed.set()
                await asyncio.sleep(LEDGER_AWAY)

    @asynccontextmanager
    async def unless_revoked(self, hashed: bytes) -> AsyncIterator[None]:
        """Cancel the body as soon as the key with this hash is revoked, and raise `Unauthenticated` then.

        A key that was revoked before is not noticed: look it up in the body.
        """
        try:
            async with asyncio.timeout(None) as waiting:
                self._waiting.setdefault(hashed, set()).add(waiting)
                try:
                    yield
                finally:
                    self._leave(hashed, waiting)
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise Unauthenticated("this API key was revoked") from error

    async def principal(self, presented: bytes) -> Principal | None:
        """The principal of this key; None for one that is unknown or revoked. Raises `LedgerUnavailable`."""
        return await self.principal_of(hash_key(presented))

    async def principal_of(self, hashed: bytes) -> Principal | None:
        """The same for the key with this hash."""
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

    async def _end_revoked(self) -> None:
        """One query, however many wait. Each is told once: it may take its time to end."""
        if not self._waiting:
            return
        async with reading(self._engine) as conn:
            valid = set(await tenants.valid_keys(conn, list(self._waiting)))
        now = asyncio.get_running_loop().time()
        for hashed in self._waiting.keys() - valid:
            for waiting in self._waiting.pop(hashed):
                waiting.reschedule(now)

    def _leave(self, hashed: bytes, waiting: asyncio.Timeout) -> None:
        others = self._waiting.get(hashed, set())
        others.discard(waiting)
        if not others:
            self._waiting.pop(hashed, None)

    async def _look_up(self, hashed: bytes) -> Principal | None:
        async with reading(self._engine) as conn:
            found = await tenants.find_key(conn, hashed)
        if found is None or not hmac.compare_digest(found[1], hashed) or found[0].revoked_at is not None:
            return None
        return Principal(found[0].tenant, granted(found[0].scopes), found[0].name, found[0].id)


async def create(engine: AsyncEngine, tenant: str, name: str, scopes: list[str]) -> tuple[UUID, str]:
    """Create a key, and record it. Returns its id and the key itself, which is not stored and cannot be read again."""
    key = PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    key_id = new_id()
    async with transaction(engine) as conn:
        await tenants.create_key(
            conn, key_id=key_id, tenant=tenant, name=name, scopes=scopes, hashed=hash_key(key.encode())
        )
        await audit.record(conn, Action.KEY_CREATED, tenant, str(key_id), name=name, scopes=scopes)
        await conn.commit()
    return key_id, key


async def revoke(engine: AsyncEngine, key_id: UUID) -> bool:
    """Revoke a key, and record it. False: it does not exist, or was revoked before."""
    async with transaction(engine) as conn:
        revoked = await tenants.revoke_key(conn, key_id)
        if revoked is not None:
            await audit.record(conn, Action.KEY_REVOKED, revoked.tenant, str(key_id), name=revoked.name)
        await conn.commit()
    return revoked is not None


def hash_key(presented: bytes) -> bytes:
    """SHA-256. A key has 256 random bits, so a slow hash would protect nothing."""
    return hashlib.sha256(presented).digest()
