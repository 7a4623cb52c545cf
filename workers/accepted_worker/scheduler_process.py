"""The scheduler process: how it is started and stopped. It loads nothing of what runs handlers."""

import asyncio
from functools import partial

import structlog
import uvloop

from accepted import process
from accepted.domain.ids import serve_under
from accepted.loops import reports
from accepted.services.monitoring.presence import Presence, Report
from accepted.settings import Settings
from accepted.storage.db import migrate
from accepted.storage.db.engine import done_when_available
from accepted.storage.db.statements import Direct
from accepted.storage.monitoring.processes import PartOf
from accepted_worker.processes import connections, first, present
from accepted_worker.scheduler import base, loops
from accepted_worker.stop_signals import StopOrders, stop_on_signals

log = structlog.get_logger(__name__)


def scheduler(settings: Settings) -> None:
    """`accepted scheduler`: runs until SIGTERM or SIGINT, or until it drains."""
    settings.require_database()

    async def run() -> None:
        orders = StopOrders()
        stop_on_signals(orders)
        await run_scheduler(settings, orders.stopping)

    uvloop.run(run())


async def run_scheduler(settings: Settings, stopping: asyncio.Event, part_of: PartOf | None = None) -> None:
    """Run every loop until `stopping` is set. The next scheduler repeats what was interrupted.

    It holds nothing, so to drain is to stop. `part_of` is the command that it is a part of, if it is of one.
    """
    serve_under(settings.root_path)
    async with connections(settings) as (engine, broker):
        process.tune_garbage_collector()
        if not await done_when_available(partial(migrate.check_at_start, engine), stopping.is_set) or stopping.is_set():
            return
        polls = Direct(engine)
        running = asyncio.create_task(base.run(loops(engine, broker, settings, polls)))
        presence = Presence(engine, "scheduler", stopping.set, part_of=part_of, report=_report)
        log.info("scheduler_ready", open_files=process.descriptor_limit())
        async with present(presence, settings.require_database()):
            await first(running, stopping)
        log.info("scheduler_stopping")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await polls.close()


def _report() -> Report:
    return Report(loops=reports())
