"""The child's side of the tools for a handler in a child process: it sends every call to the worker.

Only the functions of steps run here. The worker checks, counts and commits; its errors are raised here under their own
names. When the child dies, the worker cancels the requests that it has not answered.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NoReturn
from uuid import UUID

import msgspec

from accepted.context import ContextTransaction
from accepted.domain.failures import InvalidJob, LeaseLost
from accepted_worker.attempt.attempt_log import AttemptLog
from accepted_worker.attempt.steps import call_step
from accepted_worker.attempt.threads import running_loop
from accepted_worker.attempt.values import child_of, step_name, step_result_of
from accepted_worker.process_pool.messages import (
    Answer,
    AskChild,
    AskResults,
    AskStep,
    Denied,
    GivenUp,
    Logged,
    Progressed,
    RunStep,
    Setup,
    StepRan,
    ToolRequest,
    ToWorker,
)
from accepted_worker.process_pool.pipe import Pipe

MAX_OTHER_BYTES = 2**20
"""Bytes of a child job besides its payload. The worker would refuse a larger one anyway, after it had to read it."""

PAUSE = 0.05
"""Seconds between two messages of progress or lines. A loop may report without a pause, and the worker has to read it
all."""

NO_TRANSACTION = (
    "ctx.transaction() does not reach into a process: write the handler as async def, or as def in a thread, "
    'without runs_in="process"'
)


class ToolClient:
    """`accepted.context.ContextTools` for one attempt in a child process.

    Works from any thread and any event loop. Sends nothing after `end`, and nothing from a fork: there progress is
    dropped, and every other call raises `InvalidJob`.
    """

    def __init__(self, pipe: Pipe, setup: Setup) -> None:
        self._pipe = pipe
        self._setup = setup
        self._ended = False
        self.log = AttemptLog(self._logged)
        self._unsent: str | None = None
        self._pause: threading.Timer | None = None

    def end(self) -> None:
        """Send the last lines and progress. After this the worker gets nothing more of this attempt but its end."""
        with self._pipe.locked():
            if self._pause is not None:
                self._pause.cancel()
            self._send_unsent()
            self._ended = True
        self.log.end()
        self._pipe.fail_all()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Returns an awaitable on an event loop, and the result in a plain thread."""
        return asyncio.run(work) if running_loop() is None else work

    def say(self, progress: str) -> None:
        """Send progress now, or after the pause since the last message, unless newer progress comes until then."""
        if not self._pipe.usable:
            return
        with self._pipe.locked():
            if not self._ended:
                self._unsent = progress
                if self._pause is None:
                    self._send_and_pause()

    def _logged(self) -> None:
        """Send the lines now, or after the pause since the last message."""
        if not self._pipe.usable:
            return
        with self._pipe.locked():
            if not self._ended and self._pause is None:
                self._send_and_pause()

    def _send_and_pause(self) -> None:
        with self._pipe.locked():
            self._pause = None
            if self._ended or not self._send_unsent():
                return
            pause = threading.Timer(PAUSE, self._send_and_pause)
            pause.daemon = True
            with suppress(RuntimeError):  # no thread could be started: no pause
                pause.start()
                self._pause = pause

    def _send_unsent(self) -> bool:
        """Send progress and lines, if there are any."""
        progress, self._unsent, unsent = self._unsent, None, self.log.unwritten()
        if progress is not None:
            self._pipe.send(Progressed(progress))
        if unsent is not None:
            self._pipe.send(Logged(unsent.last, list(map(msgspec.Raw, unsent.lines))))
            self.log.written(unsent.last)
        return progress is not None or unsent is not None

    async def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        request = AskStep(self._pipe.new_id(), step_name(name))
        with self._given_up_on_error(request):
            answer = await self._answer(request)
            if isinstance(answer, RunStep):
                value = await call_step(partial(function, *args, **kwargs))
                result = step_result_of(name, value, self._setup.max_result_bytes)
                answer = await self._answer(StepRan(request.id, msgspec.Raw(result.encode())))
        return _value(answer)

    async def submit(self, body: dict[str, Any]) -> UUID:
        checked = child_of(body)
        if len(msgspec.json.encode(checked)) > self._setup.max_payload_bytes + MAX_OTHER_BYTES:
            raise InvalidJob("a child of this job is refused: it is too large")
        request = AskChild(self._pipe.new_id(), checked)
        with self._given_up_on_error(request):
            answer = await self._answer(request)
        return UUID(_value(answer))

    def results(self) -> dict[str, Any]:
        """Blocks the thread, also on an event loop: no other job's handler is on it."""
        request = AskResults(self._pipe.new_id())
        with self._given_up_on_error(request):
            results: dict[str, Any] = _value(self._ask(request).result())
        return results

    def transaction(self) -> ContextTransaction:
        return no_transaction()

    async def _answer(self, message: ToolRequest | StepRan) -> Answer:
        answer: Answer = await asyncio.wrap_future(self._ask(message))
        return answer

    def _ask(self, message: ToolRequest | StepRan) -> "Future[Answer]":
        expected = self._pipe.expect(message.id)
        self._send(message)
        return expected

    def _send(self, message: ToWorker) -> None:
        with self._pipe.locked():
            if self._ended:
                raise LeaseLost
            self._pipe.send(message)

    @contextmanager
    def _given_up_on_error(self, request: ToolRequest) -> Iterator[None]:
        """Tell the worker when the step raises or the call is cancelled, because it would wait for this process."""
        try:
            yield
        except BaseException:
            self._pipe.forget(request.id)
            with self._pipe.locked():
                if not self._ended:
                    self._pipe.send(GivenUp(request.id))
            raise


def no_transaction() -> NoReturn:
    """`ctx.transaction()` of a handler in a process."""
    raise InvalidJob(NO_TRANSACTION)


def _value(answer: Answer) -> Any:
    if isinstance(answer, Denied):
        raise answer.error()
    assert not isinstance(answer, RunStep)
    return msgspec.json.decode(answer.value)
