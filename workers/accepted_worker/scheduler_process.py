"""The scheduler process: how it is started and stopped. It loads nothing of what runs handlers."""

import asyncio
from functools import partial

import structlog
import uvloop

from accepted import process
from accepted.domain.ids import serve_under
from accepted.settings import Settings
from accepted.storage.db import migrate
from accepted.storage.db.engine import done_when_available
from accepted.storage.db.statements import Direct
from accepted_worker.processes import connections, first
from accepted_worker.scheduler import base, loops
from accepted_worker.stop_signals import stop_on_signals

log = structlog.get_logger(__name__)


def scheduler(settings: Settings) -> None:
    """`accepted scheduler`: runs until SIGTERM or SIGINT."""
    settings.require_database()

    async def run() -> None:
        stopping = asyncio.Event()
        stop_on_signals(stopping)
        await run_scheduler(settings, stopping)

    uvloop.run(run())


async def run_scheduler(settings: Settings, stopping: asyncio.Event) -> None:
    """Run every loop until `stopping` is set. The next scheduler repeats what was interrupted."""
    serve_under(settings.root_path)
    async with connections(settings) as (engine, broker):
        process.tune_garbage_collector()
        if not await done_when_available(partial(migrate.check_at_start, engine), stopping.is_set) or stopping.is_set():
            return
        polls = Direct(engine)
        running = asyncio.create_task(base.run(loops(engine, broker, settings, polls)))
        log.info("scheduler_ready", open_files=process.descriptor_limit())
        await first(running, stopping)
        log.info("scheduler_stopping")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await polls.close()
