"""The worker and scheduler processes: how they are built, started and stopped."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial

import structlog
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import extras, logs, metrics_port, process
from accepted.broker import create_broker
from accepted.broker.base import Broker
from accepted.domain.ids import serve_under
from accepted.domain.network import signing
from accepted.errors import WorkerExhausted
from accepted.handler import Handler
from accepted.metrics import observed_loop
from accepted.services.job_types.registration import check_handled
from accepted.services.scraping import refresh
from accepted.settings import Settings
from accepted.storage.db import migrate
from accepted.storage.db.engine import create_engine, done_when_available
from accepted.storage.db.statements import Direct
from accepted_worker import memory_budget
from accepted_worker.attempt import registry
from accepted_worker.attempt.tools import Tools
from accepted_worker.outbound.egress import Egress
from accepted_worker.outbound.mail import Mail
from accepted_worker.process_pool import forks
from accepted_worker.process_pool.messages import Setup
from accepted_worker.process_pool.pool import ProcessPool
from accepted_worker.runtime.executor import Executor
from accepted_worker.runtime.suspects import Suspects
from accepted_worker.runtime.worker import Worker
from accepted_worker.scheduler import base, loops
from accepted_worker.stop_signals import stop_on_signals

log = structlog.get_logger(__name__)


CONCURRENCY = 10
"""Slots of a worker without `--concurrency`."""


def worker(settings: Settings, queues: Sequence[str], concurrency: int = CONCURRENCY) -> None:
    """`accepted worker`: runs until SIGTERM or SIGINT, then ends the process with exit code 0.

    The exit code is 1 when too many handlers hang: the supervisor has to start a fresh process.
    """
    settings.require_database()

    async def run() -> None:
        stopping = asyncio.Event()
        await run_worker(settings, queues, concurrency, stopping, stop_on_signals(stopping).restore)

    with exiting(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, _exit_if_loop_is_left():
        runner.run(run())


def scheduler(settings: Settings) -> None:
    """`accepted scheduler`: runs until SIGTERM or SIGINT."""
    settings.require_database()

    async def run() -> None:
        stopping = asyncio.Event()
        stop_on_signals(stopping)
        await run_scheduler(settings, stopping)

    uvloop.run(run())


async def run_worker(
    settings: Settings,
    queues: Sequence[str],
    concurrency: int,
    stopping: asyncio.Event,
    after_attempt: Callable[[str], None] | None = None,
) -> None:
    """Serve `queues`, or all if none is named, until `stopping` is set. Call it once a process.

    `after_attempt` is called with the type of each job whose attempt has ended.

    Only here are the built-in handlers imported: Pillow and others would be in every scheduler's memory.
    """
    from accepted_worker.handlers.webhooks import alert_handler, webhook_handler

    serve_under(settings.root_path)
    forks.isolate_forks()
    forks.end_forks_with_this_process()
    egress, egress_of_deliveries = Egress(settings.egress_allow), Egress(settings.egress_allow)
    mail = Mail(settings.smtp_url, settings.smtp_from, settings.smtp_from_allow)
    setup = _setup(settings)
    pool = ProcessPool(setup)
    async with _connections(settings) as (engine, broker):
        handlers = _handlers(settings)
        webhooks = webhook_handler(engine, settings.webhook_secret, egress_of_deliveries)
        handlers[webhooks.type.name] = webhooks
        master = settings.webhook_secret
        alerts = alert_handler(settings.alert_url, None if master is None else signing.secret_of_alerts(master))
        handlers[alerts.type.name] = alerts
        tools = Tools(engine, egress, mail, settings, threads=concurrency)
        executor = Executor(handlers, tools, concurrency, settings.max_result_bytes, pool, after_attempt)
        suspects = Suspects(handlers, executor, setup, settings)
        running_worker = Worker(
            engine,
            broker,
            handlers,
            executor,
            suspects,
            queue_names=queues,
            concurrency=concurrency,
            lease_ttl=settings.lease_ttl,
            shutdown_grace=settings.shutdown_grace,
            ack_within=settings.ack_within,
            blocked_limit=settings.blocked_limit,
            database_url=settings.require_database(),
        )
        process.tune_garbage_collector()
        running = asyncio.create_task(running_worker.run())
        await _first(running, stopping)
        running_worker.stop()
        await running
        await tools.aclose()
        await suspects.aclose()
    await pool.aclose()
    await egress.aclose()
    await egress_of_deliveries.aclose()


def _handlers(settings: Settings) -> dict[str, Handler]:
    from accepted_worker import handlers as built_in

    registry.make_working_directory_importable()
    handlers = registry.load(registry.modules_of(settings))
    check_handled(handler.type for handler in handlers.values())
    if {registry.BUILT_IN, registry.BUILT_IN_IN_CONTRACT} & {*settings.handlers}:
        for name, extra in built_in.EXTRAS.items():
            if name not in handlers:
                log.warning("built_in_type_not_served", type=name, install=extras.command(extra))
    return handlers


def _setup(settings: Settings) -> Setup:
    """What a child process needs of the settings."""
    return Setup(
        modules=registry.modules_of(settings),
        egress_allow=str(settings.egress_allow),
        smtp_server=settings.smtp_url,
        smtp_sender=settings.smtp_from,
        smtp_from_allow=settings.smtp_from_allow,
        max_result_bytes=settings.max_result_bytes,
        max_payload_bytes=settings.max_payload_bytes,
        memory=settings.picture_memory or memory_budget.usual_size(),
    )


async def run_scheduler(settings: Settings, stopping: asyncio.Event) -> None:
    """Run every loop until `stopping` is set. The next scheduler repeats what was interrupted."""
    serve_under(settings.root_path)
    async with _connections(settings) as (engine, broker):
        process.tune_garbage_collector()
        if not await done_when_available(partial(migrate.check_at_start, engine), stopping.is_set) or stopping.is_set():
            return
        polls = Direct(engine)
        running = asyncio.create_task(base.run(loops(engine, broker, settings, polls)))
        log.info("scheduler_ready", open_files=process.descriptor_limit())
        await _first(running, stopping)
        log.info("scheduler_stopping")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await polls.close()


@contextlib.contextmanager
def exiting() -> Iterator[None]:
    """End the process after this block, because the interpreter would wait for threads that never return."""
    code = 0
    try:
        yield
    except WorkerExhausted as error:
        sys.stderr.write(f"accepted: {error}\n")
        code = 1
    logs.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def _exit_if_loop_is_left() -> Iterator[None]:
    """End the process at once when `SystemExit` leaves the event loop, as from a callback that a handler added to it.

    To close the loop would cancel the attempts of other jobs and record that as their failure. This way their leases
    expire.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        sys.stderr.write(f"accepted: {type(error).__name__} in the event loop\n")
        sys.stderr.flush()
        os._exit(os.EX_SOFTWARE)


@contextlib.asynccontextmanager
async def _connections(settings: Settings) -> AsyncIterator[tuple[AsyncEngine, Broker]]:
    engine = create_engine(settings.require_database())
    broker = create_broker(settings, engine)
    try:
        async with observed_loop(), metrics_port.refreshed(partial(refresh, engine)):
            yield engine, broker
    finally:
        await broker.close()
        await engine.dispose()


async def _first(running: "asyncio.Task[None]", stopping: asyncio.Event) -> None:
    """Wait for `stopping`. If `running` ends first, it has failed: raise its error."""
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        running.result()
