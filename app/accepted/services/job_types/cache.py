"""The job types as a process knows them: the names of each owner's types, and the compiled schemas of those in use.

All names of an owner are read at once. A type is read and compiled when the first job needs it, off the event loop.
"""

import asyncio
import time

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.job import JobType
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.tenants import SHARED
from accepted.errors import FieldError, InvalidRequest, did_you_mean
from accepted.payload_types import URL_FORMAT, checkers
from accepted.services.job_types.bounds import CompiledTypes, CompileTurns, KeptType
from accepted.services.job_types.compiled import CompiledJobType, compile_type, url_format
from accepted.services.settings_watch import SettingsCopy
from accepted.storage import job_types
from accepted.storage.db.engine import reading
from accepted.storage.job_types import TypeName

MAX_AGE = 0.4
"""Seconds for which names are used before they are read again."""

MAX_AGE_WATCHED = 5.0
"""The same in a process that hears of changes."""

RETRY_AFTER = 0.5
"""Seconds before an unknown type is looked up again: a worker may have registered it a moment ago."""

MAX_TENANTS = 200
"""Tenants whose names are kept, of those that have types of their own: up to 300 names each."""

MAX_COMPILED = 64 * 2**20
"""Bytes of compiled schemas in a process. Those of a service with ordinary types take less than one."""

MAX_VERDICTS = 10_000
"""Types of which a process remembers what is wrong with them. A full memory is emptied."""


class JobTypeCache:
    """Types by tenant and name, at most `max_age` seconds old. A tenant's own type goes before a shared one.

    `turns` is also for others who compile schemas of clients.
    """

    def __init__(self, engine: AsyncEngine, allow: EgressAllow, max_age: float = MAX_AGE) -> None:
        self._engine = engine
        self._max_age = max_age
        self._formats = {URL_FORMAT: url_format(allow)}
        self._python_formats = checkers() | self._formats
        self._shared = _SharedNames(engine)
        self._own: dict[str, _Names] = {}
        self._compiled = CompiledTypes(MAX_COMPILED)
        self._compiling: dict[tuple[str, str, str], asyncio.Task[CompiledJobType | None]] = {}
        self._verdicts: dict[tuple[str, str, str], str | None] = {}
        self.turns = CompileTurns()

    async def get(self, tenant: str, name: str) -> CompiledJobType:
        """The type that this name is for the tenant.

        Raises `InvalidRequest`, with the nearest name, for one that the tenant may not submit.
        """
        found = await self._find(tenant, name)
        known = None if found is None else await self._compile_once(*found)
        if known is None:
            hint = did_you_mean(name, await self._submittable(tenant))
            raise InvalidRequest([FieldError("/type", f"no worker has registered this type{hint}")])
        return known

    async def all(self, tenant: str) -> list[tuple[JobType, str | None]]:
        """Every type but internal ones that the tenant may submit, by name, read from the ledger now: with its flaw."""
        async with reading(self._engine) as conn:
            found = await job_types.visible(conn, tenant)
        return [(one, await self._flaw(one, version)) for one, version in found if not one.internal]

    async def knows(self, tenant: str, name: str) -> bool:
        """Whether the tenant may submit such a type. An unknown type is looked up again."""
        return await self._find(tenant, name, unknown_after=0.0) is not None

    def forget(self) -> None:
        """Read the types again before they are next used: one has changed."""
        for names in (self._shared, *self._own.values()):
            names.copy.forget()

    async def _find(self, tenant: str, name: str, unknown_after: float = RETRY_AFTER) -> tuple[str, TypeName] | None:
        """The owner and the name of the type; None for one that is unknown or internal."""
        for max_age in (self._max_age, unknown_after):
            for names in await self._fresh(tenant, max_age):
                if (found := names.types.get(name)) is not None:
                    return None if found.internal else (names.owner, found)
        return None

    async def _fresh(self, tenant: str, max_age: float) -> "list[_Names]":
        """The names among which the tenant finds its types, first the first."""
        await self._shared.refresh(max_age)
        if tenant not in self._shared.owners:
            return [self._shared]
        known = self._own.pop(tenant, None)
        own = self._own[tenant] = known or _Names(self._engine, tenant)
        if len(self._own) > MAX_TENANTS:
            del self._own[next(iter(self._own))]
        await own.refresh(max_age)
        return [own, self._shared]

    async def _submittable(self, tenant: str) -> list[str]:
        names = await self._fresh(tenant, self._max_age)
        return [name for each in names for name, known in each.types.items() if not known.internal]

    async def _compile_once(self, owner: str, wanted: TypeName) -> CompiledJobType | None:
        """The type; None if it was deleted meanwhile. Concurrent users of a version share one reading."""
        kept = self._compiled.get(owner, wanted.name)
        if kept is not None and kept.version == wanted.version:
            return kept.compiled
        key = (owner, wanted.name, wanted.version)
        if key not in self._compiling:
            task = self._compiling[key] = asyncio.create_task(self._read(owner, wanted.name))
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(self._compiling[key])

    async def _read(self, owner: str, name: str) -> CompiledJobType | None:
        async with reading(self._engine) as conn:
            found = await job_types.find(conn, owner, name)
        return None if found is None else await self._compile(*found)

    async def _compile(self, one: JobType, version: str) -> CompiledJobType:
        kept = self._compiled.get(one.tenant, one.name)
        if kept is not None and kept.version == version:
            return kept.compiled
        formats = self._formats if one.external else self._python_formats
        compiled = await self.turns.run(one.tenant, compile_type, one, formats)
        self._compiled.put(one.tenant, one.name, KeptType(compiled, version))
        return compiled

    async def _flaw(self, one: JobType, version: str) -> str | None:
        key = (one.tenant, one.name, version)
        if key not in self._verdicts:
            if len(self._verdicts) >= MAX_VERDICTS:
                self._verdicts.clear()
            self._verdicts[key] = (await self._compile(one, version)).flaw
        return self._verdicts[key]

    def _done(self, key: tuple[str, str, str], done: "asyncio.Task[CompiledJobType | None]") -> None:
        del self._compiling[key]
        if not done.cancelled():
            done.exception()  # taken, or asyncio logs it: all who waited may have given up


class _Names:
    """The names of one owner's types."""

    def __init__(self, engine: AsyncEngine, owner: str) -> None:
        self.owner = owner
        self.types: dict[str, TypeName] = {}
        self.copy = SettingsCopy(self._read)
        self._engine = engine
        self._read_at = float("-inf")

    async def refresh(self, max_age: float) -> None:
        """Read them, unless they were read in the last `max_age` seconds and have not changed since."""
        if time.monotonic() - self._read_at > max_age:
            self.copy.forget()
        await self.copy.refresh()

    async def _read(self) -> None:
        async with reading(self._engine) as conn:
            found = await job_types.names(conn, self.owner)
        self._read_at, self.types = time.monotonic(), found


class _SharedNames(_Names):
    """Those of shared types, with the tenants that have types of their own."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, SHARED)
        self.owners: frozenset[str] = frozenset()

    async def _read(self) -> None:
        async with reading(self._engine) as conn:
            found, self.owners = await job_types.names(conn, SHARED), await job_types.owners(conn)
        self._read_at, self.types = time.monotonic(), found
