"""One attempt: run the handler within its timeout, and turn whatever happens into a transition.

User code's outcomes are values, decided here once. Nothing that a handler raises escapes: every exception is of
one failure class or another.
"""

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog
from pydantic import ValidationError

from app.domain import transitions
from app.domain.failures import FailureClass, HandlerError, InvalidJob
from app.domain.retry import Retry
from app.domain.transitions import Held, Transition
from app.metrics import ATTEMPT_SECONDS, ATTEMPTS
from app.storage.claims import Claim
from workers.egress import Egress
from workers.job import Context, Handler

log = structlog.get_logger("attempt")


class Executor:
    """Runs claims with the handlers of this worker. Never raises for what a handler does."""

    def __init__(self, handlers: dict[str, Handler], egress: Egress, threads: int, max_result_bytes: int) -> None:
        self._handlers = handlers
        self._egress = egress
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="handler")
        self._max_result_bytes = max_result_bytes

    async def run(self, claim: Claim) -> Transition:
        """Run one attempt to its end. Cancelling it means that the worker is stopping: the job is handed back."""
        started = time.monotonic()
        transition = await self._attempt(claim)
        seconds = time.monotonic() - started
        ATTEMPTS.labels(claim.job.type, transition.outcome).inc()
        ATTEMPT_SECONDS.labels(claim.job.type).observe(seconds)
        log.info(
            "attempt",
            job_id=str(claim.job.id),
            type=claim.job.type,
            queue=claim.job.queue,
            attempt=claim.job.attempt,
            outcome=transition.outcome,
            status=transition.status,
            duration_ms=round(seconds * 1000, 1),
        )
        return transition

    def stop(self) -> None:
        """Start no more threads. One that never returns is left to the end of the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _attempt(self, claim: Claim) -> Transition:
        handler = self._handlers.get(claim.job.type)
        held = _held(claim, handler)
        if handler is None:
            return _failed(held, FailureClass.TRANSIENT, f"no handler for type {claim.job.type!r} in this worker")
        limit = claim.timeout or handler.type.timeout
        try:
            async with asyncio.timeout(limit) as deadline:
                result = await self._call(handler, claim)
            return self._succeeded(held, result)
        except asyncio.CancelledError:
            return transitions.handed_back(held)
        except TimeoutError as error:
            if deadline.expired():
                return _failed(held, FailureClass.TIMEOUT, f"ran longer than {limit:g} s")
            return _failed(held, FailureClass.TRANSIENT, _describe(error))
        except HandlerError as error:
            return _failed(held, error.failure_class, str(error), error.retry_after)
        except Exception as error:
            return _failed(held, FailureClass.TRANSIENT, _describe(error))

    async def _call(self, handler: Handler, claim: Claim) -> object:
        try:
            payload = handler.payload.validate_json(claim.job.payload)
        except ValidationError as error:
            wrong = error.errors(include_input=False, include_url=False)[0]
            where = "/".join(map(str, wrong["loc"]))
            raise InvalidJob(f"the payload does not fit its type: /{where}: {wrong['msg']}") from None
        context = Context(claim.job, self._egress)
        if handler.is_async:
            return await handler.function(payload, context)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, handler.function, payload, context)

    def _succeeded(self, held: Held, result: object) -> Transition:
        try:
            encoded = msgspec.json.encode(result)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return _failed(held, FailureClass.INVALID, f"the result is not JSON: {type(error).__name__}")
        if len(encoded) > self._max_result_bytes:
            return _failed(held, FailureClass.INVALID, f"the result is larger than {self._max_result_bytes} bytes")
        return transitions.succeeded(held, encoded.decode())


def _held(claim: Claim, handler: Handler | None) -> Held:
    return Held(
        job_id=claim.job.id,
        attempt=claim.job.attempt,
        worker_id=claim.worker_id,
        max_attempts=claim.job.max_attempts,
        crashes=claim.crashes,
        retry=_policy(claim, handler),
    )


def _policy(claim: Claim, handler: Handler | None) -> Retry:
    if claim.retry is not None:
        return msgspec.json.decode(claim.retry, type=Retry)
    return handler.type.retry if handler is not None else Retry()


def _failed(held: Held, kind: FailureClass, message: str, retry_after: float | None = None) -> Transition:
    return transitions.failed(held, kind, message, random.random(), retry_after)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
