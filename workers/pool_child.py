"""A child of `workers.pool`: loads the handlers, then runs one attempt after the other, until its worker is gone.

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
from collections.abc import Awaitable, Generator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

import httpx
import msgspec
import structlog

from app import logs, memory
from app.domain.addresses import EgressAllow
from app.domain.job import Job
from app.domain.progress import progress as progress_of
from workers import failures, registry, tracebacks
from workers.egress import Egress
from workers.job import Handler
from workers.mail import Mail
from workers.pool_messages import LENGTH, Progressed, Raised, Ready, Returned, Run, Setup, ToChild, ToWorker, encode
from workers.values import payload_of, result_of

NICENESS = 5
"""Below the worker, whose event loop keeps the leases of all its jobs."""

OOM_SCORE = 1000
"""Of -1000 to 1000: when the machine is out of memory, the kernel takes this process first, and no worker or server."""

MEMORY_SHARE = 0.5
"""Of the machine's memory. An attempt that asks for more gets a MemoryError, and the machine stays usable."""

MAX_TEXT = 16 * 1024
"""Characters of a message: the worker has to hold them."""

_decoder: msgspec.json.Decoder[ToChild] = msgspec.json.Decoder(ToChild)


def main(pipe: int, lifeline: int) -> NoReturn:
    """Serve the worker at the other end of `pipe` until that is closed."""
    _hang_on(lifeline)
    _behave()
    logs.configure()
    os.set_inheritable(pipe, False)
    channel = _Channel(socket.socket(fileno=pipe))
    setup = channel.receive()
    assert isinstance(setup, Setup)
    handlers = registry.load(setup.modules)
    memory.settle()
    channel.send(Ready())
    while True:
        run = channel.receive()
        assert isinstance(run, Run)
        channel.send(_attempt(handlers, run.job, setup, channel))


class _Channel:
    """The pipe. A handler may report progress from threads of its own."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._reader = pipe.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: ToWorker) -> None:
        frame = encode(message)
        with self._sending:
            self._pipe.sendall(frame)

    def receive(self) -> ToChild:
        length = self._reader.read(LENGTH.size)
        if not length:
            _leave()
        return _decoder.decode(self._reader.read(LENGTH.unpack(length)[0]))


class ProcessContext:
    """One attempt, as a handler that runs in a process sees it: as `Context`, but without what needs the ledger."""

    cancelled = False
    """Never true: such an attempt is not told, it is killed."""

    def __init__(self, job: Job, egress: Egress, mail: Mail, channel: _Channel) -> None:
        self.job = job
        self.egress = egress
        self.mail = mail
        self.log = structlog.get_logger("handler").bind(job_id=str(job.id), type=job.type, attempt=job.attempt)
        self._channel = channel

    def progress(self, percent: float, message: str = "") -> Awaitable[None]:
        """As `Context.progress`. Done when it returns, so that a `def` handler may call it too."""
        self._channel.send(Progressed(progress_of(percent, message)))
        return _Turn()


def _attempt(handlers: dict[str, Handler], job: Job, setup: Setup, channel: _Channel) -> Returned | Raised:
    try:
        handler = handlers[job.type]
        payload = payload_of(handler, job)
        egress = Egress(EgressAllow.parse(setup.egress_allow), ssl_context=_tls())
        context = ProcessContext(job, egress, Mail(setup.smtp_server, setup.smtp_sender), channel)
        value = handler.function(payload, context)
        if handler.is_async:
            value = asyncio.run(value)
        return Returned(msgspec.Raw(result_of(value, setup.max_result_bytes).encode()))
    except BaseException as error:
        return _raised(error)


def _raised(error: BaseException) -> Raised:
    failure = failures.of(error)
    return Raised(
        failure_class=failure.failure_class,
        message=_readable(failures.said(failure)[:MAX_TEXT]),
        retry_after=failure.retry_after,
        traceback=tracebacks.of(error),
    )


def _readable(text: str) -> str:
    """Without the lone surrogates that JSON cannot carry."""
    return text.encode(errors="replace").decode()


class _Turn:
    """May be awaited, and need not be: what is to be done is done."""

    def __await__(self) -> Generator[None, None, None]:
        yield


@cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates of the authorities takes 20 ms."""
    return httpx.create_ssl_context(trust_env=False)


def _hang_on(lifeline: int) -> None:
    """Have the kernel kill our process group when the worker's end of the pipe is closed, whatever we do then.

    O_ASYNC makes a closed pipe a signal, F_SETSIG makes that SIGKILL, F_SETOWN gives it to the group (fcntl(2)).
    PR_SET_PDEATHSIG would spare what a handler has started. Elsewhere than on Linux, the next `receive` notices.
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
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Not SIG_IGN, which programs that a handler starts would inherit: they could not be asked to stop.
        signal.signal(number, lambda *_: None)
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
