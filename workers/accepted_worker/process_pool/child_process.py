"""One child process of a worker: the pipe to it, how it is started and killed, and how it ended.

A child is a fresh interpreter, never a fork of a worker with its event loop, threads and connections. No child outlives
its worker, even one that is killed: the kernel sends SIGKILL to the child's process group when the worker's end of a
pipe, the lifeline, is closed.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable

import msgspec

from accepted.domain.job import Job
from accepted.process import resident_bytes
from accepted_worker.attempt.failures import RaisedInChild
from accepted_worker.process_pool import forks
from accepted_worker.process_pool.messages import (
    LENGTH,
    Answer,
    EndAlone,
    FromAttempt,
    HandlerOver,
    Raised,
    Ready,
    Recorded,
    Returned,
    RunAlone,
    RunAttempt,
    Setup,
    ToChild,
    ToWorker,
    encode,
)

MAX_ATTEMPTS = 100
"""Attempts after which a child is replaced, because libraries leak memory. A start costs a second of CPU."""

MAX_RESIDENT_BYTES = 512 * 2**20
"""Resident memory above which a child is replaced after an attempt. With its handlers loaded it has about 90 MiB."""

OWN_END_SECONDS = 0.2
"""Seconds for a child that closed its pipe to end by itself, so that the crash has its exit code. It takes 50 ms."""

BOOTSTRAP = (
    "import json, sys; path = json.loads(sys.argv[3]); sys.path[:] = path[1:] + path[:1]; "
    "from {entry} import main; sys.path[:] = path; main(int(sys.argv[1]), int(sys.argv[2]))"
)
"""Gives the child the worker's `sys.path`, the working directory first only for the user's modules: a file `email.py`
there must not stand in for the standard library's when the child itself is imported."""

STDERR = 2

Receive = Callable[[FromAttempt, Callable[[Answer], None]], None]
"""Called on the worker's event loop with a message of the attempt, and with the function that sends an answer."""

_decoder: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)


class Crashed(Exception):
    """The child ended while it ran an attempt. The message says how."""


class ChildProcess:
    """One child and the pipe to it. Create it with `spawn`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pipe: socket.socket,
        lifeline: int,
    ) -> None:
        self._process = process
        self._pipe = pipe
        self._reader = reader
        self._writer = writer
        self._lifeline: int | None = lifeline
        self._attempts = 0
        self._reusable = True
        self.ended = asyncio.create_task(self._watch())
        """The exit code; negative for a signal."""

    @classmethod
    async def spawn(cls, entry: str, inherited: int) -> "ChildProcess":
        """Start an interpreter, in a session and so in a process group of its own, with this descriptor.

        It calls `main` of the module `entry`.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        end_of_life, lifeline = os.pipe()
        forks.own(lifeline)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-c", BOOTSTRAP.format(entry=entry),
                    str(theirs.fileno()), str(end_of_life), json.dumps(sys.path),
                    pass_fds=(theirs.fileno(), end_of_life, inherited),
                    stdin=asyncio.subprocess.DEVNULL, stdout=STDERR, start_new_session=True,
                )  # fmt: skip
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            # A child that has started all the same finds its lifeline closed.
            forks.close(lifeline)
            ours.close()
            raise
        finally:
            os.close(end_of_life)
        return cls(process, reader, writer, ours, lifeline)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Asks the kernel, because the event loop may not know of the end yet."""
        try:
            return self._lifeline is not None and self._pipe.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    @property
    def worn_out(self) -> bool:
        """Dead, interrupted, with something left running, too old or too big for another attempt."""
        return (
            not self.alive
            or not self._reusable
            or self._attempts >= MAX_ATTEMPTS
            or resident_bytes(self.pid) > MAX_RESIDENT_BYTES
        )

    async def prepare(self, setup: Setup) -> None:
        """Returns when the handlers are loaded."""
        self._send(setup)
        assert isinstance(await self._receive(), Ready)

    async def run(self, job: Job, receive: Receive) -> msgspec.Raw:
        """Run one attempt; returns the result as JSON. Raises `RaisedInChild` and `Crashed`."""
        self._attempts += 1
        self._reusable = False
        self._send(RunAttempt(job))
        while True:
            answer = await self._receive()
            if isinstance(answer, Returned | Raised):
                break
            assert not isinstance(answer, Ready | HandlerOver | Recorded)
            receive(answer, self._send)
        self._reusable = not answer.left_running
        if isinstance(answer, Raised):
            raise RaisedInChild(
                answer.message, answer.failure_class, answer.retry_after, answer.traceback, answer.where
            )
        return answer.result

    async def run_alone(self, order: RunAlone, handler_over: Callable[[], None]) -> Recorded:
        """Run one attempt as a worker does. Returns when its outcome is recorded. Raises `Crashed`.

        Calls `handler_over` before: from then on the child only waits for the ledger.
        """
        self._attempts += 1
        self._reusable = False
        self._send(order)
        while isinstance(answer := await self._receive(), HandlerOver):
            handler_over()
        assert isinstance(answer, Recorded)
        self._reusable = not answer.left_running
        return answer

    def end_alone(self, *, stopping: bool) -> None:
        """Ask the attempt of `run_alone` to end: its job is cancelled, or else the worker stops."""
        self._send(EndAlone(stopping))

    def kill(self) -> None:
        """Send SIGKILL to the child's process group."""
        if self._lifeline is None:
            return
        forks.close(self._lifeline)
        self._lifeline = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._writer.close()

    def _send(self, message: ToChild) -> None:
        if self._lifeline is not None:
            self._writer.write(encode(message))

    async def _receive(self) -> ToWorker:
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            return _decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError):
            await asyncio.wait([self.ended], timeout=OWN_END_SECONDS)
            self.kill()
            raise Crashed(_how_it_ended(await self.ended)) from None

    async def _watch(self) -> int:
        """Wait for the end, then kill the group, so that nothing keeps the pipe open."""
        code = await self._process.wait()
        self.kill()
        return code


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"the process of this job ended by itself, with exit code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    return f"the process of this job was killed by {name}"
