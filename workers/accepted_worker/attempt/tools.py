"""The tools behind the contexts of a worker's handlers: opened with an attempt, closed with its outcome."""

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import CursorResult, Executable

from accepted.context import Context, ContextTransaction, HttpClient, MailServer
from accepted.domain import transitions
from accepted.domain.failures import FailureClass, LeaseLost
from accepted.domain.job import Status
from accepted.domain.references import Lease
from accepted.domain.transitions import Transition
from accepted.services.jobs.checks import JobChecks
from accepted.settings import Settings
from accepted.storage.attempts.claims import Claim
from accepted.storage.attempts.handler_transactions import HandlerConnection, HandlerTransaction
from accepted_worker.attempt.attempt_log import AttemptLog, handler_log, keep_from_logging
from accepted_worker.attempt.log_writer import LogWriter
from accepted_worker.attempt.progress import LatestProgress, ProgressWriter
from accepted_worker.attempt.records import AttemptRecords
from accepted_worker.attempt.related_jobs import Children, DependencyResults, FanOut
from accepted_worker.attempt.slots import OrphanedHandlers
from accepted_worker.attempt.steps import Steps
from accepted_worker.attempt.threads import LoopBridge, Threads


class _Attempt(NamedTuple):
    """The tools of one running attempt."""

    context: Context
    bridge: LoopBridge
    log: AttemptLog
    steps: Steps
    children: Children
    results: DependencyResults
    transaction: "AttemptTransaction"


@dataclass(frozen=True)
class OwnTools:
    """`accepted.context.ContextTools` in the worker's own process: the tools themselves."""

    call: Callable[[Coroutine[Any, Any, Any]], Any]
    say: Callable[[str], None]
    step: Callable[..., Coroutine[Any, Any, Any]]
    submit: Callable[[dict[str, Any]], Coroutine[Any, Any, UUID]]
    results: Callable[[], dict[str, Any]]
    transaction: Callable[[], ContextTransaction]


class Tools:
    """Opens and closes the context of each attempt. For the worker's event loop alone."""

    def __init__(
        self, records: AttemptRecords, egress: HttpClient, mail: MailServer, settings: Settings, threads: int
    ) -> None:
        """`threads`: how many attempts may run a step in a thread at once."""
        self.fan_out = FanOut(settings.max_fanout_depth, settings.max_fanout_jobs)
        self._records = records
        self._egress = egress
        self._mail = mail
        self.orphans = OrphanedHandlers()
        self._threads = Threads(threads, self.orphans, "step")
        self._max_result_bytes = settings.max_result_bytes
        self._checks = JobChecks(records.types, settings.egress_allow, settings.max_payload_bytes)
        self.progress = ProgressWriter(records)
        self.logs = LogWriter(records)
        keep_from_logging()
        self.targets = records.targets
        self._open: dict[Lease, _Attempt] = {}
        self._to_commit: dict[Lease, HandlerTransaction] = {}

    def open(self, claim: Claim, seconds: float, allowed: float) -> Context:
        """The context for the handler of an attempt with a timeout of `seconds`; `allowed` is its type's timeout."""
        lease, bridge = claim.lease, LoopBridge()
        log = self.logs.open(lease, bridge)
        children = Children(claim, self._checks, self.fan_out)
        transaction = AttemptTransaction(self._records, lease, seconds, bridge)
        steps = Steps(self._records, lease, partial(self._threads.call, allowed=allowed), self._max_result_bytes)
        say = LatestProgress(bridge, partial(self.progress.say, lease))
        results = DependencyResults(self._records, claim)
        own = OwnTools(bridge.call, say, steps.run, children.submit, results.by_ref, lambda: transaction)
        context = Context(
            claim.job, own, egress=self._egress, mail=self._mail, log=handler_log(claim.job, log),
            max_result_bytes=self._max_result_bytes,
        )  # fmt: skip
        self._open[lease] = _Attempt(context, bridge, log, steps, children, results, transaction)
        return context

    def log_of(self, lease: Lease) -> AttemptLog:
        """The log of this attempt."""
        return self._open[lease].log

    async def read_results(self, lease: Lease) -> None:
        """Read what `ctx.results` returns in this attempt. Raises `LeaseLost`."""
        await self._open[lease].results.read()

    async def close(self, transition: Transition) -> Transition:
        """Close the context of an attempt that ends with `transition`; returns it with progress, answer and children.

        Waits until the results of steps are committed, because the fence refuses them after the outcome. While the
        ledger is away, the outcome would have to wait as well.
        The transaction of a success stays open for `take_transaction`; any other is rolled back here.
        """
        running = transition.running
        attempt = self._open.pop(running.lease, None)
        if attempt is None:
            return transition
        attempt.bridge.end()
        self.logs.end(running.lease, attempt.log)
        await attempt.steps.settled()
        if transition.status is Status.SUCCEEDED and attempt.transaction.within:
            transition = transitions.failed(running, FailureClass.INVALID, _LEFT_OPEN, random.random())
        said = {"progress": self.progress.end(running.lease), "answer": attempt.context.answer}
        if transition.status is not Status.SUCCEEDED:
            await attempt.transaction.abandon()
            return msgspec.structs.replace(transition, **said)
        if handler_transaction := attempt.transaction.take():
            self._to_commit[running.lease] = handler_transaction
        return msgspec.structs.replace(transition, **said, children=attempt.children.submitted)

    def has_transaction(self, lease: Lease) -> bool:
        """Whether `take_transaction` has one for this attempt."""
        return lease in self._to_commit

    def take_transaction(self, lease: Lease) -> HandlerTransaction | None:
        """The transaction to commit with the success of this attempt, if it has one. The caller ends it."""
        return self._to_commit.pop(lease, None)

    async def aclose(self) -> None:
        """Start no more threads, and close all connections."""
        self._threads.close()
        self.logs.close()
        await self._records.aclose()


_LEFT_OPEN = "the handler returned and left its transaction open: return from within or after the block"


class AttemptTransaction:
    """`ctx.transaction()`: begun by the handler, and ended by the worker when the attempt ends.

    `async with` gives a connection; in `def` handlers `with` gives one whose calls block.
    """

    def __init__(self, records: AttemptRecords, lease: Lease, seconds: float, bridge: LoopBridge) -> None:
        self._records = records
        self._lease = lease
        self._seconds = seconds
        self._bridge = bridge
        self._begun = False
        self._within = False
        self._ended = False
        self._transaction: HandlerTransaction | None = None

    async def __aenter__(self) -> HandlerConnection:
        if self._begun:
            raise RuntimeError("an attempt has one transaction, and has begun it before")
        self._begun = True
        transaction = await self._records.begin(self._lease, self._seconds)
        if self._ended:  # an orphaned handler
            await transaction.abandon()
            raise LeaseLost
        self._transaction, self._within = transaction, True
        return transaction.handler_connection

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._within = False
        if error is not None and self._transaction is not None:
            transaction, self._transaction = self._transaction, None
            await transaction.abandon()

    def __enter__(self) -> "BlockingConnection":
        return BlockingConnection(self._bridge.call(self.__aenter__()), self._bridge)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._bridge.call(self.__aexit__(kind, error, trace))

    @property
    def within(self) -> bool:
        """Whether the handler is within the `with` block."""
        return self._within

    def take(self) -> HandlerTransaction | None:
        """The attempt has ended: the transaction to commit with its success, if any. The caller ends it."""
        self._ended = True
        transaction, self._transaction = self._transaction, None
        return transaction

    async def abandon(self) -> None:
        """The attempt has ended without success: roll back."""
        if transaction := self.take():
            await transaction.abandon()


class BlockingConnection:
    """The connection of a `def` handler."""

    def __init__(self, connection: HandlerConnection, bridge: LoopBridge) -> None:
        self._connection = connection
        self._bridge = bridge

    def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """As SQLAlchemy's `Connection.execute`; all rows are read when it returns."""
        result: CursorResult[Any] = self._bridge.call(self._connection.execute(statement, parameters))
        return result
