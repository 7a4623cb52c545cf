"""The child's side of the tools of a handler that runs in a process: everything is asked of the worker.

Only the functions of steps run here. What is remembered, real, allowed or lost is for the worker to say, and its
errors are raised here as what they are there. If we die, the worker knows all that it has answered, and breaks off the
rest.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from accepted.context import ContextTransaction
from accepted.domain.failures import InvalidJob, LeaseLost
from accepted_worker.attempt import steps
from accepted_worker.attempt.loop_bridge import running_loop
from accepted_worker.attempt.values import child_of, step_name, step_result_of
from accepted_worker.process_pool.messages import (
    Answer,
    Ask,
    AskChild,
    AskResults,
    AskStep,
    Denied,
    GivenUp,
    Progressed,
    RunStep,
    Setup,
    StepRan,
    ToWorker,
)
from accepted_worker.process_pool.pipe import Pipe

MAX_REST_BYTES = 2**20
"""Of a child beside its payload. A body that is larger than both would be refused anyway, and burden the worker."""

PROGRESS_SECONDS = 0.05
"""Between two messages of progress. A loop may say it all the time, and the worker would have to hear it all."""

NO_TRANSACTION = (
    "ctx.transaction() does not reach into a process: write the handler as async def, or as def in a thread, "
    'without runs_in="process"'
)


class ToolClient:
    """`accepted.context.ContextTools` of one attempt. Its handler may call from any thread and any event loop.

    After the attempt, and from a fork, nothing is sent: there progress is dropped, and all else raises `InvalidJob`.
    """

    def __init__(self, pipe: Pipe, setup: Setup) -> None:
        self._pipe = pipe
        self._setup = setup
        self._over = False
        self._unsaid: str | None = None
        self._pause: threading.Timer | None = None

    def end(self) -> None:
        """Says what is still to be said. After it, the worker hears nothing more of this attempt than its outcome."""
        with self._pipe.alone():
            if self._pause is not None:
                self._pause.cancel()
            if self._unsaid is not None:
                self._pipe.send(Progressed(self._unsaid))
            self._over = True
        self._pipe.lose_all()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """On an event loop something to await; in a plain thread the result itself, once it is there."""
        return asyncio.run(work) if running_loop() is None else work

    def say(self, progress: str) -> None:
        """Now, or after the pause since the last time, if nothing newer is said by then."""
        if not self._pipe.ours:
            return
        with self._pipe.alone():
            if not self._over:
                self._unsaid = progress
                if self._pause is None:
                    self._say_it()

    def _say_it(self) -> None:
        with self._pipe.alone():
            self._pause = None
            if self._over or self._unsaid is None:
                return
            self._pipe.send(Progressed(self._unsaid))
            self._unsaid = None
            pause = threading.Timer(PROGRESS_SECONDS, self._say_it)
            pause.daemon = True
            with suppress(RuntimeError):  # no thread to be had, no pause
                pause.start()
                self._pause = pause

    async def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        ask = AskStep(self._pipe.new_id(), step_name(name))
        with self._given_up_if_left(ask):
            answer = await self._answer(ask)
            if isinstance(answer, RunStep):
                value = await steps.call(partial(function, *args, **kwargs))
                result = step_result_of(name, value, self._setup.max_result_bytes)
                answer = await self._answer(StepRan(ask.id, msgspec.Raw(result.encode())))
        return _value(answer)

    async def submit(self, body: dict[str, Any]) -> UUID:
        checked = child_of(body)
        if len(msgspec.json.encode(checked)) > self._setup.max_payload_bytes + MAX_REST_BYTES:
            raise InvalidJob("a child of this job is refused: it is too large")
        ask = AskChild(self._pipe.new_id(), checked)
        with self._given_up_if_left(ask):
            answer = await self._answer(ask)
        return UUID(_value(answer))

    async def results(self) -> dict[str, Any]:
        ask = AskResults(self._pipe.new_id())
        with self._given_up_if_left(ask):
            answer = await self._answer(ask)
        results: dict[str, Any] = _value(answer)
        return results

    def transaction(self) -> ContextTransaction:
        raise InvalidJob(NO_TRANSACTION)

    async def _answer(self, message: Ask | StepRan) -> Answer:
        coming = self._pipe.expect(message.id)
        self._tell(message)
        answer: Answer = await asyncio.wrap_future(coming)
        return answer

    def _tell(self, message: ToWorker) -> None:
        with self._pipe.alone():
            if self._over:
                raise LeaseLost
            self._pipe.send(message)

    @contextmanager
    def _given_up_if_left(self, ask: Ask) -> Iterator[None]:
        """The step has raised, or the call was cancelled: the worker has to know, or it would wait for us."""
        try:
            yield
        except BaseException:
            self._pipe.forget(ask.id)
            with self._pipe.alone():
                if not self._over:
                    self._pipe.send(GivenUp(ask.id))
            raise


def _value(answer: Answer) -> Any:
    if isinstance(answer, Denied):
        raise answer.error()
    assert not isinstance(answer, RunStep)
    return msgspec.json.decode(answer.value)
