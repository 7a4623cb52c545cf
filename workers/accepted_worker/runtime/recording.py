"""Records outcomes in the ledger: alone, or together with the handler's transaction and the children it submitted."""

import asyncio
import random

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted import logs
from accepted.broker.base import Broker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass, InvalidJob
from accepted.domain.references import Lease
from accepted.domain.transitions import Transition
from accepted.errors import LedgerUnavailable, describe
from accepted.services.jobs.completion import Outcomes, settle_whole
from accepted.services.monitoring.statistics import Measurements
from accepted.storage.attempts.handler_transactions import HandlerTransaction
from accepted.storage.db.engine import RETRY_SECONDS, transaction
from accepted_worker.attempt.tools import Tools

MAX_REFUSALS = 3
"""Failures of an unknown kind after which the outcome itself is at fault, not the ledger."""

COMMIT_SECONDS = 10.0
"""Seconds for a handler's transaction to commit with the outcome. Its connection has no other timeout."""

log = structlog.get_logger(__name__)


class Recorder:
    """Records the outcomes of one worker's attempts."""

    def __init__(self, engine: AsyncEngine, broker: Broker, tools: Tools, measurements: Measurements) -> None:
        self._engine = engine
        self._broker = broker
        self._tools = tools
        self._measurements = measurements
        self._outcomes = Outcomes(engine, broker)

    async def record(self, transition: Transition) -> None:
        """Record an outcome, and try until it is recorded or the fence refuses it, however long the ledger is away."""
        await self._tools.logs.settle(transition.running.lease)
        handler_transaction = self._tools.take_transaction(transition.running.lease)
        if handler_transaction is not None:
            failure = await self._with_transaction(handler_transaction, transition)
            if failure is None:
                return
            transition = failure
        refusals = 0
        while True:
            try:
                committed = await self._commit(transition)
            except LedgerUnavailable as error:
                logs.outage("outcome_waits", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except InvalidJob as refusal:
                transition = _failed(transition, FailureClass.INVALID, str(refusal))
                continue
            except Exception:
                log.exception("outcome_refused", job_id=str(transition.running.job_id))
                refusals += 1
                if refusals == MAX_REFUSALS:
                    transition = transitions.unrecordable(transition.running)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if not committed:
                _fenced(transition)
            return

    def has_transaction(self, lease: Lease) -> bool:
        """Whether the outcome of this attempt commits with a transaction of its handler's, which has a connection."""
        return self._tools.has_transaction(lease)

    async def close(self) -> None:
        """End the recording of outcomes."""
        await self._outcomes.close()

    async def _commit(self, transition: Transition) -> bool:
        """An outcome without children shares a transaction with others."""
        if not transition.children:
            return await self._outcomes.record(transition)
        async with transaction(self._engine) as conn:
            return await self._settle_whole(conn, transition)

    async def _settle_whole(self, conn: AsyncConnection, success: Transition) -> bool:
        settled = await settle_whole(conn, self._broker, success, self._tools.fan_out.jobs)
        if settled:
            self._measurements.accepted(success.children)
        return settled

    async def _with_transaction(
        self, handler_transaction: HandlerTransaction, success: Transition
    ) -> Transition | None:
        """Commit the outcome in the handler's transaction. Returns the failure to record instead if that fails.

        If the commit succeeded and only the answer to it was lost, the fence refuses that failure.
        """
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                settled_on = await handler_transaction.for_settlement()
                if not await self._settle_whole(settled_on, success):
                    _fenced(success)
                    return None
                await handler_transaction.give_back()
            return None
        except InvalidJob as refusal:
            return _failed(success, FailureClass.INVALID, str(refusal))
        except Exception as error:
            log.warning("transaction_lost", job_id=str(success.running.job_id), error=describe(error))
            return _failed(success, FailureClass.TRANSIENT, "the handler's transaction could not be committed")
        finally:
            await handler_transaction.abandon()


def _failed(success: Transition, kind: FailureClass, message: str) -> Transition:
    failure = transitions.failed(success.running, kind, message, random.random())
    running = failure.running
    log.warning("success_refused", job_id=str(running.job_id), attempt=running.attempt, **logs.failure_of(failure))
    return msgspec.structs.replace(failure, progress=success.progress, answer=success.answer)


def _fenced(transition: Transition) -> None:
    log.warning("outcome_fenced", job_id=str(transition.running.job_id), attempt=transition.running.attempt)
