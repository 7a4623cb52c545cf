"""The worker's side of the tools for handlers in child processes: it answers their requests with the attempt's tools.

The rules of the tools are elsewhere. Each request calls the same tools that a handler in the worker's own process has,
in a task of the worker's event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from accepted.context import ContextTools
from accepted_worker.attempt.attempt_log import AttemptLog
from accepted_worker.process_pool.messages import (
    Answer,
    Answered,
    AskChild,
    AskStep,
    Denied,
    FromAttempt,
    GivenUp,
    Logged,
    Progressed,
    RunStep,
    StepRan,
    ToolRequest,
)

TASK_NAME = "tool request"
"""The name of the tasks that answer requests."""

Send = Callable[[Answer], None]


class ToolServer:
    """Answers the requests of one attempt. For the worker's event loop alone."""

    def __init__(self, tools: ContextTools, read_results: Callable[[], Awaitable[None]], log: AttemptLog) -> None:
        """`read_results` makes `tools.results()` ready."""
        self._log = log
        self._tools = tools
        self._read_results = read_results
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._running: dict[int, asyncio.Future[msgspec.Raw]] = {}

    def receive(self, message: FromAttempt, send: Send) -> None:
        """Handle one message. Returns at once; `send` gets the answer later."""
        match message:
            case Progressed():
                self._tools.say(message.value)
            case Logged():
                self._log.extend(map(bytes, message.lines), message.last)
            case StepRan():
                if ran := self._running.pop(message.id, None):
                    ran.set_result(message.result)
            case GivenUp():
                if task := self._tasks.get(message.id):
                    task.cancel()
            case _:
                self._begin(message, send)

    def close(self) -> None:
        """The attempt has ended, or its child is dead: cancel all requests, and answer no more.

        A step whose result was just being committed is remembered or not, as after the death of a worker.
        """
        for task in list(self._tasks.values()):
            task.cancel()

    def _begin(self, request: ToolRequest, send: Send) -> None:
        task = asyncio.create_task(self._answer(request, send), name=TASK_NAME)
        self._tasks[request.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request.id))

    async def _answer(self, request: ToolRequest, send: Send) -> None:
        try:
            value = msgspec.json.encode(await self._result(request, send))
            answer: Answer = Answered(request.id, msgspec.Raw(value))
        except Exception as error:
            answer = Denied.of(request.id, error)
        send(answer)

    async def _result(self, request: ToolRequest, send: Send) -> object:
        match request:
            case AskStep():
                return await self._tools.step(request.name, self._run_in_child, request, send)
            case AskChild():
                return await self._tools.submit(request.body)
            case _:
                await self._read_results()
                return self._tools.results()

    async def _run_in_child(self, request: AskStep, send: Send) -> msgspec.Raw:
        """The function of a step, as the tool calls it."""
        ran: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._running[request.id] = ran
        send(RunStep(request.id))
        try:
            return await ran
        finally:
            self._running.pop(request.id, None)
