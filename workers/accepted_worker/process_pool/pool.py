"""Processes for handlers that compute: one attempt at a time each, killed rather than asked.

What it guarantees:

- A child runs beside the worker, never inside it: whatever it does, the worker's event loop, and with it the
  heartbeat and the other slots, goes on.
- An attempt that is given up (timeout, cancel, shutdown) is dead at once, with every process in its process group: what
  it has started, but for what was given a session or a group of its own (`start_new_session=True`).
- No child outlives its worker, not even one that is killed: the kernel itself sends SIGKILL to the child's whole
  process group when the worker's end of a pipe, the lifeline, is closed.
- Nothing is started before it is needed, and what is not needed for a while is ended.

A child is a fresh interpreter. It is never forked from a worker that has an event loop, threads and connections.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable

import msgspec

from accepted.domain.failures import HandlerError, TargetTimeout, TransientError
from accepted.domain.job import Job
from accepted.process import resident_bytes
from accepted_worker.process_pool import forks
from accepted_worker.process_pool.messages import (
    LENGTH,
    Answer,
    FromAttempt,
    Raised,
    Ready,
    Returned,
    Run,
    Setup,
    ToChild,
    ToWorker,
    encode,
)

MAX_ATTEMPTS = 100
"""Attempts after which a child is replaced: what its libraries leak is given back. A start costs a second of CPU."""

MAX_RESIDENT_BYTES = 512 * 2**20
"""What a child may hold between two attempts; one that has only loaded its handlers holds about 90 MiB."""

IDLE_SECONDS = 60.0
"""After which a child that nobody needs is ended. Long against the pauses of a busy queue."""

STARTS_AT_ONCE = os.cpu_count() or 1
"""Children that start beside each other. Ten on two cores would all take as long as the tenth."""

START_SECONDS = 60.0
"""For a child to load its handlers: 1 s on an idle machine. It is not part of the attempt, nor of its timeout."""

END_SECONDS = 2.0
"""For the kernel to take killed children away. Nothing depends on it but the tidiness of our end."""

OWN_END_SECONDS = 0.2
"""For a child whose pipe is closed to end by itself, so that its crash says how it did. An interpreter takes 50 ms."""

BOOTSTRAP = (
    "import os, sys; sys.path[:] = sys.argv[3].split(os.pathsep); "
    "from accepted_worker.process_pool.child import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
"""The worker's own module path, or its handlers could not be found: `-m` would look in the working directory."""

STDERR = 2

Receive = Callable[[FromAttempt, Callable[[Answer], None]], None]
"""Called on the worker's event loop with what the attempt says and asks, and with what sends an answer to it."""

_decoder: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)


class Crashed(Exception):
    """The child has ended while it ran an attempt. Its text says how."""


class RaisedInChild(HandlerError):
    """What a handler raised in its process; `traceback` is the text of the one there."""

    def __init__(self, raised: Raised) -> None:
        super().__init__(raised.message)
        self.failure_class = raised.failure_class
        self.retry_after = raised.retry_after
        self.traceback = raised.traceback


class ProcessPool:
    """As many children as attempts run in it at once. The worker's slots are what bounds them."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._idle: dict[Child, asyncio.TimerHandle] = {}
        self._children: set[Child] = set()
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE)

    @contextlib.asynccontextmanager
    async def child(self) -> AsyncIterator["Child"]:
        """A child for one attempt, loaded and ready. One that is left in the middle of it is killed.

        Raises `TransientError` if none can be started.
        """
        child = self._take()
        if child is None:
            async with self._starts:
                child = self._take() or await self._start()
        try:
            yield child
        finally:
            self._give_back(child)

    async def run(self, job: Job, seconds: float, receive: Receive) -> msgspec.Raw:
        """One attempt, of at most so many seconds once its child is ready; the result as JSON.

        Raises `RaisedInChild`, `Crashed`, `TargetTimeout` when the time is up, and `TransientError` when no child
        can be started. Cancelling it kills the child.
        """
        async with self.child() as child:
            try:
                async with asyncio.timeout(seconds):
                    return await child.run(job, receive)
            except TimeoutError:
                raise TargetTimeout(f"ran longer than {seconds:g} s") from None

    async def aclose(self) -> None:
        """Kill every child, and wait until the kernel has taken them away."""
        ended = [child.ended for child in self._children]
        for child in list(self._children):
            self._end(child)
        if ended:
            await asyncio.wait(ended, timeout=END_SECONDS)

    def _take(self) -> "Child | None":
        while self._idle:
            child, timer = self._idle.popitem()
            timer.cancel()
            if child.alive:
                return child
            self._end(child)
        return None

    async def _start(self) -> "Child":
        child = await Child.spawn()
        self._children.add(child)
        child.ended.add_done_callback(lambda _: self._children.discard(child))
        try:
            async with asyncio.timeout(START_SECONDS):
                await child.prepare(self._setup)
        except (TimeoutError, Crashed) as error:
            self._end(child)
            raise TransientError(f"no process was ready for this job: {error or 'it took too long'}") from None
        except BaseException:
            self._end(child)
            raise
        return child

    def _give_back(self, child: "Child") -> None:
        if child.worn_out:
            self._end(child)
        else:
            loop = asyncio.get_running_loop()
            self._idle[child] = loop.call_later(IDLE_SECONDS, self._end, child)

    def _end(self, child: "Child") -> None:
        if timer := self._idle.pop(child, None):
            timer.cancel()
        child.kill()


class Child:
    """One process, and the pipe to it. Made by `spawn`."""

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
        """Its exit code, negative for a signal."""

    @classmethod
    async def spawn(cls) -> "Child":
        """Start the interpreter, in a session and so a process group of its own."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        end_of_life, lifeline = os.pipe()
        forks.own(lifeline)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-c", BOOTSTRAP,
                    str(theirs.fileno()), str(end_of_life), os.pathsep.join(sys.path),
                    pass_fds=(theirs.fileno(), end_of_life),
                    stdin=asyncio.subprocess.DEVNULL, stdout=STDERR, start_new_session=True,
                )  # fmt: skip
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            # If it has started after all, it finds its lifeline cut.
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
        """As the kernel has it now: the event loop may not have heard of the end yet."""
        try:
            return self._lifeline is not None and self._pipe.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    @property
    def worn_out(self) -> bool:
        """Dead, left in the middle of an attempt or with what that started, or of an age or size to be replaced."""
        return (
            not self.alive
            or not self._reusable
            or self._attempts >= MAX_ATTEMPTS
            or resident_bytes(self.pid) > MAX_RESIDENT_BYTES
        )

    async def prepare(self, setup: Setup) -> None:
        """Returns once the handlers are loaded."""
        self._send(setup)
        assert isinstance(await self._receive(), Ready)

    async def run(self, job: Job, receive: Receive) -> msgspec.Raw:
        """Run one attempt; its result as JSON. Raises `RaisedInChild` and `Crashed`. To give up, leave `child()`."""
        self._attempts += 1
        self._reusable = False
        self._send(Run(job))
        while True:
            answer = await self._receive()
            if isinstance(answer, Returned | Raised):
                break
            assert not isinstance(answer, Ready)
            receive(answer, self._send)
        self._reusable = not answer.left_running
        if isinstance(answer, Raised):
            raise RaisedInChild(answer)
        return answer.result

    def kill(self) -> None:
        """SIGKILL for the child's process group."""
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
            raise Crashed(_how(await self.ended)) from None

    async def _watch(self) -> int:
        """The exit code. The child's group dies with it, and with that the last end of the pipe is closed."""
        code = await self._process.wait()
        self.kill()
        return code


def _how(code: int) -> str:
    if code >= 0:
        return f"the process of this job ended by itself, with exit code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    return f"the process of this job was killed by {name}"
