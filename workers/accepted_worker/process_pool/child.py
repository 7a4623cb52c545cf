"""A child process of a worker: it loads the handlers, then runs one attempt after the other until the worker ends.

All decisions are the worker's: the child ignores signals to stop, has no timeout, and is killed when it is no longer
needed. It answers through the pipe; prints and logs go to standard error.
"""

import asyncio
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from accepted import correlation, logs, process
from accepted.context import Context
from accepted.domain.failures import FailureClass
from accepted.domain.job import Job
from accepted.domain.network.addresses import EgressAllow
from accepted.handler import Handler
from accepted_worker import memory_budget
from accepted_worker.attempt import failures, registry
from accepted_worker.attempt.attempt_log import handler_log, keep_from_logging, keep_in_this_process
from accepted_worker.attempt.values import payload_of, result_of
from accepted_worker.outbound.egress import Egress
from accepted_worker.outbound.mail import Mail
from accepted_worker.process_pool import forks
from accepted_worker.process_pool.messages import AttemptEnd, Raised, Ready, Returned, RunAttempt, Setup, readable
from accepted_worker.process_pool.pipe import Pipe
from accepted_worker.process_pool.tool_client import ToolClient
from accepted_worker.stop_signals import StopSignals

NICENESS = 5
"""The worker has priority: its event loop renews the leases of all its jobs."""

OOM_SCORE = 1000
"""From -1000 to 1000: when memory runs out, the kernel kills this process before a worker or a server."""

MEMORY_SHARE = 0.5
"""Share of the memory of the machine or container. An attempt that allocates more gets a MemoryError, and the rest
stays usable."""


def main(pipe: int, lifeline: int) -> NoReturn:
    """Serve the worker at the other end of `pipe` until it closes the pipe. Both arguments are descriptors."""
    worker, setup, handlers, stop_signals = begin(pipe, lifeline)
    threads = threading.enumerate()
    worker.send(Ready())
    while True:
        order = worker.next_order()
        assert isinstance(order, RunAttempt)
        client = ToolClient(worker, setup)
        correlation.bind(correlation.ids_of_attempt(order.job))
        keep_in_this_process(client.log)
        end = _attempt(handlers, order.job, setup, client)
        if not worker.usable:
            os._exit(1)  # a fork that the handler did not end, and that returned from the handler as well
        stop_signals.restore(order.job.type)
        keep_in_this_process(None)
        client.end()
        left_running = forks.anything_left_running({*threads, worker.reader})
        worker.send(msgspec.structs.replace(end, left_running=left_running))


class Begun(NamedTuple):
    """A child that is ready for attempts."""

    worker: Pipe
    setup: Setup
    handlers: dict[str, Handler]
    stop_signals: StopSignals


def begin(pipe: int, lifeline: int) -> Begun:
    """Set this process apart from its worker, and load the handlers. The caller sends `Ready`."""
    process.end_with(lifeline, -os.getpgrp())  # outside Linux, the child ends when it reads a closed message pipe
    _limit_self()
    logs.configure()
    keep_from_logging()
    stop_signals = StopSignals(forks.STOP_SIGNALS, _ignore_stop_signals)
    os.set_inheritable(pipe, False)
    worker = Pipe(socket.socket(fileno=pipe))
    setup = worker.next_order()
    assert isinstance(setup, Setup)
    if setup.memory_file is not None:
        memory_budget.adopt(setup.memory_file, setup.memory)
    handlers = registry.load(setup.modules)
    process.tune_garbage_collector()
    return Begun(worker, setup, handlers, stop_signals)


def _attempt(handlers: dict[str, Handler], job: Job, setup: Setup, client: ToolClient) -> AttemptEnd:
    try:
        handler = handlers[job.type]
        payload = payload_of(handler, job)
        egress = Egress(EgressAllow.parse(setup.egress_allow))
        mail = Mail(setup.smtp_server, setup.smtp_sender, setup.smtp_from_allow)
        context = Context(
            job, client, egress=egress, mail=mail, log=handler_log(job, client.log),
            max_result_bytes=setup.max_result_bytes,
        )  # fmt: skip
        value = call_handler(handler, payload, context)
        return Returned(msgspec.Raw(result_of(value, setup.max_result_bytes).encode()))
    except BaseException as error:
        return _raised(error)


def call_handler(handler: Handler, payload: object, context: Context) -> Any:
    """What the handler returns: on an event loop of its own if it is async."""
    value = handler.function(payload, context)
    return _on_a_loop(value) if handler.is_async else value


class LoopThreads(ThreadPoolExecutor):
    """An event loop's threads. They are not waited for when the loop is closed."""

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def _on_a_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """As `asyncio.run`, but without waiting for threads: one that still runs is reported as left running."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(LoopThreads())
        return runner.run(work)


def _raised(error: BaseException) -> Raised:
    """The methods of a handler's own exception class can raise anything; then only the name of the class is sent."""
    try:
        failure = failures.of(error)
        raised = Raised(
            failure_class=failure.failure_class,
            message=readable(failure),
            retry_after=failure.retry_after,
            traceback=failures.traceback_of(error),
            where=failures.place_of(error),
        )
        return msgspec.json.decode(msgspec.json.encode(raised), type=Raised)
    except BaseException:
        return Raised(FailureClass.TRANSIENT, type(error).__name__, None, None, None)


def _limit_self() -> None:
    """Leave CPU time and memory to the rest of the machine."""
    forks.isolate_forks()
    os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(process.memory_bytes() * MEMORY_SHARE)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _ignore_stop_signals() -> None:
    for number in forks.STOP_SIGNALS:
        # Not SIG_IGN, because programs that a handler starts would inherit that and could not be stopped.
        signal.signal(number, lambda *_: None)
