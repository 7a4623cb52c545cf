"""`run`: one attempt of a handler, without a ledger, a broker and a process.

The worker's own code runs it: the executor, the tools of its context, and the rules for payloads, results and failures.
Only the records are in memory (`accepted.testing.memory`). A handler with `runs_in="process"` runs in a thread of this
process, so that a test sees what it changes; its tools behave as in a process.
"""

import asyncio
import contextvars
import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from accepted.context import Context, HttpClient, MailServer
from accepted.domain.ids import new_id
from accepted.domain.job import DEFAULT_PRIORITY, Job, JobType, Status
from accepted.domain.tenants import DEFAULT_TENANT
from accepted.handler import Handler, handler_of, handlers_in
from accepted.settings import Settings, load
from accepted.storage.attempts.claims import Claim
from accepted.testing.memory import MemoryRecords, TypesAtHand
from accepted.testing.outcome import HandlerOutcome, outcome_of
from accepted_worker.attempt.handler_call import task_factory
from accepted_worker.attempt.threads import running_loop
from accepted_worker.attempt.tools import OwnTools, Tools
from accepted_worker.attempt.values import as_json
from accepted_worker.outbound.egress import Egress
from accepted_worker.outbound.mail import Mail
from accepted_worker.process_pool.child import LoopThreads, call_handler
from accepted_worker.process_pool.tool_client import no_transaction
from accepted_worker.runtime.executor import Executor


def run(
    handler: Callable[..., Any],
    payload: object = None,
    *,
    attempt: int = 1,
    results: Mapping[str, Any] | None = None,
    steps: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    tags: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    egress: HttpClient | None = None,
    mail: MailServer | None = None,
) -> HandlerOutcome:
    """Run one attempt of a function under `@job`, and return what the worker would record.

    `payload` is what a client would send, or an object of the payload's type. `results` is `ctx.results`; `steps` are
    the results of steps that earlier attempts have done. `timeout` is in seconds. `egress` and `mail` stand in for the
    guarded HTTP client and the mail server. The limits are those of the settings in the environment. Children may have
    any type; the payloads of those in the handler's module are checked. May be called where an event loop runs: the
    handler then has one in another thread. Raises `ConfigurationError` for a function that is no handler, and
    `InvalidJob` for arguments that are not JSON.
    """
    one = handler_of(handler)
    settings = load()
    claim = _claim(one, payload, attempt, timeout, tags, metadata or {}, in_workflow=bool(results))
    known = TypesAtHand(_types_beside(handler), settings.egress_allow)
    records = MemoryRecords(known, _texts(steps), _texts(results))
    smtp = mail or Mail(settings.smtp_url, settings.smtp_from, settings.smtp_from_allow)
    work = partial(_run, _in_a_thread(one) if one.in_process else one, claim, records, egress, smtp, settings)
    return _on_a_loop(work) if running_loop() is None else _beside_a_loop(work)


def _types_beside(function: Callable[..., Any]) -> list[JobType]:
    """The types whose handlers are in the function's module."""
    module = sys.modules.get(function.__module__)
    return [one.type for one in handlers_in(module)] if module else []


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: as_json(f"the value of {name!r}", value) for name, value in (values or {}).items()}


def _claim(
    handler: Handler,
    payload: object,
    attempt: int,
    timeout: float | None,
    tags: Sequence[str],
    metadata: Mapping[str, str],
    *,
    in_workflow: bool,
) -> Claim:
    now, kind = datetime.now(UTC), handler.type
    job = Job(
        id=new_id(), tenant=DEFAULT_TENANT, type=kind.name, queue=kind.queue, status=Status.RUNNING,
        priority=DEFAULT_PRIORITY, attempt=attempt, max_attempts=max(kind.retry.max_attempts, attempt),
        payload=as_json("the payload", {} if payload is None else payload), tags=list(tags),
        metadata=as_json("the metadata", metadata), created_at=now, run_at=now, started_at=now,
    )  # fmt: skip
    return Claim(
        job=job, worker_id=new_id(), crashes=0, retry=None, timeout=timeout, traceparent=None, in_workflow=in_workflow
    )


def _in_a_thread(handler: Handler) -> Handler:
    """The handler of a process as one that a worker calls in a thread."""

    def call(payload: object, context: Context) -> Any:
        assert isinstance(context.tools, OwnTools)
        context.tools = dataclasses.replace(context.tools, transaction=no_transaction)
        return call_handler(handler, payload, context)

    return dataclasses.replace(handler, function=call, is_async=False, in_process=False)


def _on_a_loop(work: Callable[[], Any]) -> HandlerOutcome:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner, _level_of_logging():
        runner.get_loop().set_task_factory(task_factory)
        runner.get_loop().set_default_executor(LoopThreads())
        outcome: HandlerOutcome = runner.run(work())
    return outcome


def _beside_a_loop(work: Callable[[], Any]) -> HandlerOutcome:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, _on_a_loop, work).result()


@contextmanager
def _level_of_logging() -> Iterator[None]:
    """The tools lower the level of the root logger for good, as suits a worker."""
    root = logging.getLogger()
    before = root.level
    try:
        yield
    finally:
        root.setLevel(before)


async def _run(
    handler: Handler,
    claim: Claim,
    records: MemoryRecords,
    egress: HttpClient | None,
    mail: MailServer,
    settings: Settings,
) -> HandlerOutcome:
    own_egress = Egress(settings.egress_allow)
    tools = Tools(records, egress or own_egress, mail, settings, threads=1)
    executor = Executor({handler.type.name: handler}, tools, 1, settings.max_result_bytes)
    try:
        transition = await executor.run(claim)
        await tools.logs.settle(claim.lease)
    finally:
        executor.stop()
        await tools.aclose()
        await own_egress.aclose()
    return outcome_of(transition, records.steps, records.lines)
