"""What the tools of attempts read and write beyond their attempt: the ledger, or memory in `accepted.testing`."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.job import Job
from accepted.domain.references import Lease
from accepted.domain.transitions import Transition
from accepted.services.job_types.cache import JobTypeCache
from accepted.services.jobs.checks import KnownTypes
from accepted.settings import Settings
from accepted.storage import batches
from accepted.storage.attempts import completion
from accepted.storage.attempts import logs as ledger_logs
from accepted.storage.attempts.handler_transactions import HandlerTransaction, HandlerTransactions
from accepted.storage.attempts.logs import Piece
from accepted.storage.db.engine import reading, transaction
from accepted.storage.db.statements import Direct
from accepted_worker.outbound.targets import Call, Deferred, Targets


class AttemptTargets(Protocol):
    """When a host may be called. `accepted_worker.outbound.targets` has the rules."""

    async def ask(self, job: Job, /) -> Call | Deferred | None: ...

    def tell(self, call: Call, transition: Transition, /) -> None: ...


class AttemptRecords(Protocol):
    """The records of all attempts of one worker. Texts are JSON. Methods raise `LedgerUnavailable`."""

    @property
    def types(self) -> KnownTypes:
        """The types that a child may have."""
        ...

    @property
    def targets(self) -> AttemptTargets: ...

    async def recall_steps(self, lease: Lease) -> dict[str, str] | None:
        """The results of the job's steps by name; None if the lease is lost."""
        ...

    async def remember_step(self, lease: Lease, name: str, result: str) -> bool:
        """Returns whether the lease still held; else nothing is remembered."""
        ...

    async def results_needed(self, lease: Lease) -> dict[str, str] | None:
        """The results of the jobs that this one depends on, by ref; None if the lease is lost."""
        ...

    async def write_progress(self, progress: Mapping[Lease, str]) -> None: ...

    async def append_logs(self, pieces: Sequence[Piece]) -> None: ...

    async def begin(self, lease: Lease, seconds: float) -> HandlerTransaction:
        """The transaction of an attempt that may take so many seconds."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class LedgerRecords:
    """`AttemptRecords` in the ledger. A lease that is lost changes nothing there."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self.types = JobTypeCache(engine, settings.egress_allow)
        self.targets = Targets(engine)
        self._engine = engine
        self._of_logs = Direct(engine)
        self._transactions = HandlerTransactions(settings.require_database())

    async def recall_steps(self, lease: Lease) -> dict[str, str] | None:
        async with reading(self._engine) as conn:
            return await completion.recall_steps(conn, lease)

    async def remember_step(self, lease: Lease, name: str, result: str) -> bool:
        async with transaction(self._engine) as conn:
            owned = await completion.remember_step(conn, lease, name, result)
            await conn.commit()
        return owned

    async def results_needed(self, lease: Lease) -> dict[str, str] | None:
        async with reading(self._engine) as conn:
            return await batches.results_needed(conn, lease)

    async def write_progress(self, progress: Mapping[Lease, str]) -> None:
        async with transaction(self._engine) as conn:
            await completion.write_progress(conn, progress)
            await conn.commit()

    async def append_logs(self, pieces: Sequence[Piece]) -> None:
        async with self._of_logs.statements() as conn:
            await ledger_logs.append(conn, pieces)

    async def begin(self, lease: Lease, seconds: float) -> HandlerTransaction:
        return await self._transactions.begin(lease, seconds)

    async def aclose(self) -> None:
        await self.targets.aclose()
        await self._of_logs.close()
        await self._transactions.close()
