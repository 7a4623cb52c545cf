"""The one transaction that an attempt may have: begun by its handler, ended with the attempt by the worker."""

from typing import Any

from sqlalchemy import CursorResult, Executable

from accepted.domain.failures import LeaseLost
from accepted.domain.references import Lease
from accepted.storage.attempts.handler_transactions import HandlerConnection, HandlerTransaction, HandlerTransactions
from accepted_worker.attempt.loop_bridge import LoopBridge


class AttemptTransaction:
    """`async with` gives a connection; in `def` handlers `with` gives one whose calls block."""

    def __init__(self, transactions: HandlerTransactions, lease: Lease, seconds: float, bridge: LoopBridge) -> None:
        self._transactions = transactions
        self._lease = lease
        self._seconds = seconds
        self._bridge = bridge
        self._begun = False
        self._within = False
        self._over = False
        self._transaction: HandlerTransaction | None = None

    async def __aenter__(self) -> HandlerConnection:
        if self._begun:
            raise RuntimeError("an attempt has one transaction, and this one has had it")
        self._begun = True
        transaction = await self._transactions.begin(self._lease, self._seconds)
        if self._over:  # a handler that was told to end, and did not let go
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
        """The block was entered and is not left."""
        return self._within

    def take(self) -> HandlerTransaction | None:
        """The attempt is over: what there is to commit along with its success, which is the caller's to end now."""
        self._over = True
        transaction, self._transaction = self._transaction, None
        return transaction

    async def abandon(self) -> None:
        """Roll back, if there is anything."""
        if transaction := self.take():
            await transaction.abandon()


class BlockingConnection:
    """The transaction as a `def` handler sees it."""

    def __init__(self, connection: HandlerConnection, bridge: LoopBridge) -> None:
        self._connection = connection
        self._bridge = bridge

    def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """As SQLAlchemy's `Connection.execute`; the rows are all there when it returns."""
        result: CursorResult[Any] = self._bridge.call(self._connection.execute(statement, parameters))
        return result
