"""The worker's side of the tools of a handler that runs in a process: the attempt's own tools answer what it asks.

No rule of any tool is here. A request is a call of the same tools that a handler in the worker's own process has, as
a task of the worker's event loop: fenced, checked and counted as there.
"""

import asyncio
from collections.abc import Callable

import msgspec

from accepted.context import ContextTools
from accepted_worker.process_pool.messages import (
    Answer,
    Answered,
    Ask,
    AskChild,
    AskStep,
    Denied,
    FromAttempt,
    GivenUp,
    Progressed,
    RunStep,
    StepRan,
)

Send = Callable[[Answer], None]


class ToolServer:
    """The requests of one attempt. For use on the worker's event loop alone."""

    def __init__(self, tools: ContextTools) -> None:
        self._tools = tools
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._running: dict[int, asyncio.Future[msgspec.Raw]] = {}

    def receive(self, message: FromAttempt, send: Send) -> None:
        """Returns at once; the answer is sent when it is there."""
        match message:
            case Progressed():
                self._tools.say(message.value)
            case StepRan():
                if ran := self._running.pop(message.id, None):
                    ran.set_result(message.result)
            case GivenUp():
                if task := self._tasks.get(message.id):
                    task.cancel()
            case _:
                self._begin(message, send)

    def close(self) -> None:
        """The attempt is over, or its child is dead: what is under way is broken off, and nothing more is answered.

        A step that was just being committed is remembered or is not, as if a worker had died there.
        """
        for task in list(self._tasks.values()):
            task.cancel()

    def _begin(self, ask: Ask, send: Send) -> None:
        task = asyncio.create_task(self._answer(ask, send))
        self._tasks[ask.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(ask.id))

    async def _answer(self, ask: Ask, send: Send) -> None:
        try:
            answer: Answer = Answered(ask.id, msgspec.Raw(msgspec.json.encode(await self._value(ask, send))))
        except Exception as error:
            answer = Denied.of(ask.id, error)
        send(answer)

    async def _value(self, ask: Ask, send: Send) -> object:
        match ask:
            case AskStep():
                return await self._tools.step(ask.name, self._in_the_child, ask, send)
            case AskChild():
                return await self._tools.submit(ask.body)
            case _:
                return await self._tools.results()

    async def _in_the_child(self, ask: AskStep, send: Send) -> msgspec.Raw:
        """The function of a step, as the tool sees it."""
        ran: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._running[ask.id] = ran
        send(RunStep(ask.id))
        try:
            return await ran
        finally:
            self._running.pop(ask.id, None)
