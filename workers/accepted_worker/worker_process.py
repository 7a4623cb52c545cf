"""The worker process: how it is built, started and stopped."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import structlog
import uvloop

from accepted import extras, process
from accepted.domain.ids import serve_under
from accepted.domain.network import signing
from accepted.handler import Handler
from accepted.services.job_types.registration import check_handled
from accepted.services.monitoring.presence import Presence
from accepted.settings import Settings
from accepted.storage.monitoring.processes import PartOf
from accepted.tracing import setup as tracing
from accepted_worker import handlers as built_in
from accepted_worker import memory_budget
from accepted_worker.attempt import registry
from accepted_worker.attempt.records import LedgerRecords
from accepted_worker.attempt.tools import Tools
from accepted_worker.handlers.webhooks import alert_handler, webhook_handler
from accepted_worker.outbound.egress import Egress
from accepted_worker.outbound.mail import Mail
from accepted_worker.process_pool import forks
from accepted_worker.process_pool.messages import Setup
from accepted_worker.process_pool.pool import ProcessPool
from accepted_worker.processes import connections, exiting, first, present
from accepted_worker.runtime.executor import Executor
from accepted_worker.runtime.suspects import Suspects
from accepted_worker.runtime.worker import Worker
from accepted_worker.stop_signals import StopOrders, stop_on_signals

log = structlog.get_logger(__name__)


CONCURRENCY = 10
"""Slots of a worker without `--concurrency`."""


def worker(
    settings: Settings, queues: Sequence[str], concurrency: int = CONCURRENCY, part_of: PartOf | None = None
) -> None:
    """`accepted worker`: runs until SIGTERM or SIGINT, then ends the process with exit code 0.

    It also ends when it has drained. `part_of` is the command that would start it again, if there is one.
    The exit code is 1 when too many handlers hang: the supervisor has to start a fresh process.
    """
    settings.require_database()
    forks.isolate_forks()
    forks.end_forks_with_this_process()

    async def run() -> None:
        orders = StopOrders()
        restore = stop_on_signals(orders).restore
        await run_worker(settings, queues, concurrency, orders, restore, part_of)

    with exiting(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, _exit_if_loop_is_left():
        runner.run(run())


async def run_worker(
    settings: Settings,
    queues: Sequence[str],
    concurrency: int,
    orders: StopOrders,
    after_attempt: Callable[[str], None] | None = None,
    part_of: PartOf | None = None,
) -> None:
    """Serve `queues`, or all if none is named, until `orders` say to stop. Call it once a process.

    `after_attempt` is called with the type of each job whose attempt has ended.
    """
    serve_under(settings.root_path)
    egress, egress_of_deliveries = Egress(settings.egress_allow), Egress(settings.egress_allow)
    mail = Mail(settings.smtp_url, settings.smtp_from, settings.smtp_from_allow)
    setup = _setup(settings)
    pool = ProcessPool(setup)
    async with connections(settings) as (engine, broker):
        handlers = _handlers(settings)
        webhooks = webhook_handler(engine, settings.webhook_secret, egress_of_deliveries)
        handlers[webhooks.type.name] = webhooks
        master = settings.webhook_secret
        alerts = alert_handler(settings.alert_url, None if master is None else signing.secret_of_alerts(master))
        handlers[alerts.type.name] = alerts
        tools = Tools(LedgerRecords(engine, settings), egress, mail, settings, threads=concurrency)
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
            orders=orders,
        )
        process.tune_garbage_collector()
        tracing.start("worker")
        presence = Presence(
            engine, "worker", running_worker.drain, id=running_worker.id, part_of=part_of, report=running_worker.report
        )
        async with present(presence, settings.require_database()):
            running = asyncio.create_task(running_worker.run())
            await first(running, orders.stopping)
            running_worker.stop()
            await running
        await tools.aclose()
        await suspects.aclose()
    await pool.aclose()
    await egress.aclose()
    await egress_of_deliveries.aclose()
    tracing.stop()


def _handlers(settings: Settings) -> dict[str, Handler]:
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
