"""A child of `accepted_worker.process_pool.pool`: loads the handlers, then runs one attempt after the other, until its
worker is gone.

It leaves the judgement of everything to the worker: it heeds no signal that asks it to stop, knows no timeout,
and is killed when it is not wanted any more. All that it says goes up the pipe; prints and logs go to standard error.
"""

import asyncio
import fcntl
import os
import resource
import select
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import httpx
import msgspec

from accepted import logs, process
from accepted.context import Context
from accepted.domain.failures import FailureClass
from accepted.domain.job import Job
from accepted.domain.network.addresses import EgressAllow
from accepted.handler import Handler
from accepted_worker.attempt import failures, tracebacks
from accepted_worker.attempt.values import payload_of, result_of
from accepted_worker.outbound.egress import Egress
from accepted_worker.outbound.mail import Mail
from accepted_worker.process_pool import forks
from accepted_worker.process_pool.leftovers import anything_left
from accepted_worker.process_pool.messages import Outcome, Raised, Ready, Returned, Run, Setup, readable
from accepted_worker.process_pool.pipe import Pipe
from accepted_worker.process_pool.tool_client import ToolClient
from accepted_worker.runtime import registry

NICENESS = 5
"""Below the worker, whose event loop keeps the leases of all its jobs."""

OOM_SCORE = 1000
"""Of -1000 to 1000: when the machine is out of memory, the kernel takes this process first, and no worker or server."""

MEMORY_SHARE = 0.5
"""Of the machine's memory. An attempt that asks for more gets a MemoryError, and the machine stays usable."""


def main(pipe: int, lifeline: int) -> NoReturn:
    """Serve the worker at the other end of `pipe` until that is closed."""
    _hang_on(lifeline)
    _behave()
    logs.configure()
    os.set_inheritable(pipe, False)
    worker = Pipe(socket.socket(fileno=pipe))
    setup = worker.order()
    assert isinstance(setup, Setup)
    handlers = registry.load(setup.modules)
    process.tune_garbage_collector()
    threads = threading.enumerate()
    worker.send(Ready())
    while True:
        run = worker.order()
        assert isinstance(run, Run)
        client = ToolClient(worker, setup)
        outcome = _attempt(handlers, run.job, setup, client)
        if not worker.ours:
            os._exit(1)  # a fork that its handler has not ended, and that has come all the way up here
        client.end()
        left_running = anything_left({*threads, worker.reader})
        worker.send(msgspec.structs.replace(outcome, left_running=left_running))


def _attempt(handlers: dict[str, Handler], job: Job, setup: Setup, client: ToolClient) -> Outcome:
    try:
        handler = handlers[job.type]
        payload = payload_of(handler, job)
        egress = Egress(EgressAllow.parse(setup.egress_allow), ssl_context=_tls())
        mail = Mail(setup.smtp_server, setup.smtp_sender)
        context = Context(
            job, client, egress=egress, mail=mail, log=logs.of_handler(job), max_result_bytes=setup.max_result_bytes
        )
        value = handler.function(payload, context)
        if handler.is_async:
            value = _on_a_loop(value)
        return Returned(msgspec.Raw(result_of(value, setup.max_result_bytes).encode()))
    except BaseException as error:
        return _raised(error)


class _Threads(ThreadPoolExecutor):
    """Of an event loop, whose end would wait for one that is given up in the middle of something."""

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def _on_a_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """As `asyncio.run`, but that no thread is waited for: what one still does is left running."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_Threads())
        return runner.run(work)


def _raised(error: BaseException) -> Raised:
    """An error of a handler's own making can be anything: of one that cannot be told, the name of its type is."""
    try:
        failure = failures.of(error)
        raised = Raised(
            failure_class=failure.failure_class,
            message=readable(failure),
            retry_after=failure.retry_after,
            traceback=tracebacks.of(error),
        )
        return msgspec.json.decode(msgspec.json.encode(raised), type=Raised)
    except BaseException:
        return Raised(FailureClass.TRANSIENT, type(error).__name__, None, None)


@cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates of the authorities takes 20 ms."""
    return httpx.create_ssl_context(trust_env=False)


def _hang_on(lifeline: int) -> None:
    """Have the kernel kill our process group when the worker's end of the pipe is closed, whatever we do then.

    O_ASYNC makes a closed pipe a signal, F_SETSIG makes that SIGKILL, F_SETOWN gives it to the group (fcntl(2)).
    PR_SET_PDEATHSIG would spare what a handler has started. Elsewhere than on Linux, the pipe says it.
    """
    os.set_inheritable(lifeline, False)
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    if select.select([lifeline], [], [], 0)[0]:
        _leave()


def _behave() -> None:
    """The worker decides when we end, and it and the machine come first."""
    for number in forks.REQUESTS_TO_STOP:
        # Not SIG_IGN, which programs that a handler starts would inherit: they could not be asked to stop.
        signal.signal(number, lambda *_: None)
    forks.keep_out_of_ours()
    os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * MEMORY_SHARE)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _leave() -> NoReturn:
    os._exit(0)
