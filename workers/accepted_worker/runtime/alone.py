"""A child process that runs suspects, one at a time: their handlers, and the recording of their outcomes.

Everything is as in a worker: the same executor, the same tools with connections of their own, the same statements. So a
handler finds no difference, and `ctx.transaction()` commits with its outcome. Only the claim, the lease and its
heartbeat, and the ack are the worker's. Each attempt has an event loop and connections of its own, and leaves none.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, NoReturn

import msgspec

from accepted.broker import create_broker
from accepted.domain.ids import serve_under
from accepted.domain.job import Status
from accepted.handler import Handler
from accepted.settings import Settings
from accepted.storage.attempts.claims import Claim
from accepted.storage.db.engine import create_engine
from accepted_worker.attempt.handler_call import task_factory
from accepted_worker.attempt.progress import PAUSE
from accepted_worker.attempt.records import LedgerRecords
from accepted_worker.attempt.tools import Tools
from accepted_worker.outbound.egress import Egress
from accepted_worker.outbound.mail import Mail
from accepted_worker.process_pool import forks
from accepted_worker.process_pool.child import LoopThreads, begin
from accepted_worker.process_pool.messages import EndAlone, HandlerOver, Ready, Recorded, RunAlone, Setup
from accepted_worker.process_pool.pipe import ORDERS, Pipe
from accepted_worker.process_pool.pool import ProcessPool
from accepted_worker.runtime.executor import Executor
from accepted_worker.runtime.recording import Recorder

TASKS_SECONDS = 2 * PAUSE
"""Seconds for tasks to end by themselves. That of the progress ends with its next pause."""


def main(pipe: int, lifeline: int) -> NoReturn:
    """Serve the worker at the other end of `pipe` until it closes the pipe. Both arguments are descriptors."""
    worker, setup, handlers, stop_signals = begin(pipe, lifeline)
    forks.end_forks_with_this_process()
    threads = threading.enumerate()
    coming = worker.expect(ORDERS)
    worker.send(Ready())
    while True:
        order = coming.result()
        recorded = None
        if isinstance(order, RunAlone):
            recorded = _run(order, handlers, worker, setup)
            if not worker.usable:
                os._exit(1)  # a fork of the handler's, as in a child of the process pool
            stop_signals.restore(order.claim.job.type)
        coming = worker.expect(ORDERS)  # first, because the next order may follow the answer at once
        if recorded is not None:
            left_running = recorded.left_running or forks.anything_left_running({*threads, worker.reader})
            worker.send(msgspec.structs.replace(recorded, left_running=left_running))


def _run(order: RunAlone, handlers: dict[str, Handler], worker: Pipe, setup: Setup) -> Recorded:
    settings = Settings(**msgspec.json.decode(order.settings))
    serve_under(settings.root_path)
    runner = asyncio.Runner()
    runner.get_loop().set_task_factory(task_factory)
    runner.get_loop().set_default_executor(LoopThreads())
    try:
        recorded = runner.run(_attempt(order.claim, settings, handlers, worker, setup))
    except (SystemExit, KeyboardInterrupt):  # from a callback that the handler has added to the loop
        os._exit(os.EX_SOFTWARE)
    if not recorded.left_running:  # else the loop would wait for the tasks that are left, and the worker ends us anyway
        runner.close()
    return recorded


async def _attempt(
    claim: Claim, settings: Settings, handlers: dict[str, Handler], worker: Pipe, setup: Setup
) -> Recorded:
    async with _parts(settings, handlers, setup) as (executor, recorder):
        running = asyncio.create_task(executor.run(claim))
        obeying = asyncio.create_task(_obey(worker, executor, claim, running))
        transition = await running
        worker.send(HandlerOver())
        await recorder.record(transition)
        obeying.cancel()
        await asyncio.wait({obeying})
    return Recorded(
        transition.outcome,
        handed_back=bool(transition.extra_attempts),
        dead=transition.status is Status.FAILED,
        left_running=await _any_task_left_running(),
    )


async def _any_task_left_running() -> bool:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=TASKS_SECONDS)
    return not all(task.done() for task in others)


async def _obey(worker: Pipe, executor: Executor, claim: Claim, running: "asyncio.Task[object]") -> None:
    """End the attempt when the worker says so."""
    while True:
        order = await asyncio.wrap_future(worker.expect(ORDERS))
        assert isinstance(order, EndAlone)
        if order.stopping:
            running.cancel()
        else:
            executor.cancel(claim.job.id, claim.job.attempt)


class _Parts(NamedTuple):
    executor: Executor
    recorder: Recorder


@asynccontextmanager
async def _parts(settings: Settings, handlers: dict[str, Handler], setup: Setup) -> AsyncIterator[_Parts]:
    """What a worker with one slot has. Its broker only says what follows an outcome: it never connects."""
    engine = create_engine(settings.require_database())
    broker = create_broker(settings, engine)
    egress = Egress(settings.egress_allow)
    pool = ProcessPool(setup)
    mail = Mail(settings.smtp_url, settings.smtp_from, settings.smtp_from_allow)
    tools = Tools(LedgerRecords(engine, settings), egress, mail, settings, threads=1)
    executor = Executor(handlers, tools, 1, settings.max_result_bytes, pool)
    recorder = Recorder(engine, broker, tools, executor.measurements)
    try:
        yield _Parts(executor, recorder)
    finally:
        executor.stop()
        await recorder.close()
        await tools.aclose()
        await pool.aclose()
        await egress.aclose()
        await broker.close()
        await engine.dispose()
