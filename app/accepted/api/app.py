"""The HTTP process: what it is made of, how it starts, and how it stops."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from types import FrameType

import structlog
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from uvicorn.supervisors import Multiprocess

import accepted
from accepted import logs, metrics_port, process
from accepted.api import (
    audit,
    batch_list,
    batches,
    dead_letters,
    health,
    job_types,
    keys,
    leases,
    queues,
    reference,
    schedules,
    stats,
    status,
    targets,
    webhooks,
    workers,
)
from accepted.api.http import problems
from accepted.api.http.exposure import BrowserGuard
from accepted.api.http.middleware import Application, HeadAsGet, ProxyHeaders, RequestLog
from accepted.api.http.parameters import refuse_repeated_query
from accepted.api.jobs import attempt_logs, commands, listing, many, reading, submission, watching
from accepted.api.state import State
from accepted.broker import create_broker
from accepted.concurrency import TimeSlices, late_tasks_ended
from accepted.dashboard import routes as dashboard
from accepted.domain.ids import serve_under
from accepted.errors import ConfigurationError
from accepted.metrics import observed_loop
from accepted.services.batches.spool import SpoolSpace
from accepted.services.batches.submission import BatchSubmissions
from accepted.services.job_types.cache import MAX_AGE_WATCHED, JobTypeCache
from accepted.services.jobs.checks import JobChecks
from accepted.services.jobs.submission import Submissions
from accepted.services.jobs.watching import JobWatcher
from accepted.services.keys import ApiKeyCache
from accepted.services.lease_waiters import LeaseWaiters
from accepted.services.leased_payloads import LeasedPayloads
from accepted.services.leases import Leases
from accepted.services.limited_submission import LimitedSubmissions
from accepted.services.monitoring.presence import Presence
from accepted.services.monitoring.statistics import Measurements
from accepted.services.scraping import refresh_all
from accepted.services.settings_watch import SettingsWatch
from accepted.services.submission_limits import SubmissionLimits
from accepted.settings import Settings, load
from accepted.storage.db import migrate
from accepted.storage.db.engine import create_engine, retry_until_available, transaction
from accepted.storage.db.notifications import DRAINS, KEYS, LIMITS, TYPES
from accepted.storage.jobs import metadata_index
from accepted.storage.monitoring.processes import PartOf
from accepted.tracing import setup as tracing

DESCRIPTION = (
    "Submit a job, get a 202, then poll it or receive a webhook. "
    "After the 202 the job is neither lost nor recorded twice."
)

ROUTES = (
    submission, batches, batch_list, listing, reading, attempt_logs, many, commands, dead_letters, watching, job_types,
    queues, schedules, leases, targets, workers, webhooks, keys, audit, stats, status, health, reference,
)  # fmt: skip
"""Modules with a `router`, in the order of the OpenAPI document."""

log = structlog.get_logger(__name__)


class Processes(Multiprocess):
    """The processes of `accepted api --workers N`, each with `from_environment`; logs what one alone would log."""

    _ready = False

    def keep_subprocess_alive(self) -> None:
        """Called twice a second. Says so once all of them accept connections."""
        super().keep_subprocess_alive()
        if not self._ready and not self.should_exit.is_set() and all(each.is_ready() for each in self.processes):
            self._ready = True
            log.info(
                "accepted_api",
                url=process.url_of(self.sockets[0]),
                processes=len(self.processes),
                open_files=process.descriptor_limit(),
            )

    def terminate_all(self) -> None:
        """Stop them. Each waits for its requests, streams and long polls."""
        seconds = self.config.timeout_graceful_shutdown
        log.info("api_stopping", processes=len(self.processes), seconds=seconds)
        super().terminate_all()


def create_app(settings: Settings, part_of: PartOf | None = None) -> FastAPI:
    """The application. It connects to nothing until it serves requests, so it starts without ledger and broker.

    `part_of` is the command that keeps its process alive, if there is one.
    """
    engine = create_engine(settings.require_database())
    broker = create_broker(settings, engine)
    type_cache = JobTypeCache(engine, settings.egress_allow, MAX_AGE_WATCHED)
    keys = ApiKeyCache(engine)
    measurements = Measurements()
    submissions = Submissions(engine, broker, settings.idempotency_ttl, measurements)
    limits = SubmissionLimits(engine)
    limited_submissions = LimitedSubmissions(
        engine, limits, submissions, BatchSubmissions(engine, broker, settings.idempotency_ttl, measurements)
    )
    lease_service = Leases(engine, broker, measurements)
    leased_payloads = LeasedPayloads(type_cache, lease_service)
    state = State(
        settings=settings,
        engine=engine,
        broker=broker,
        submissions=submissions,
        limits=limits,
        limited_submissions=limited_submissions,
        watcher=JobWatcher(engine, settings.require_database()),
        type_cache=type_cache,
        measurements=measurements,
        job_checks=JobChecks(type_cache, settings.egress_allow, settings.max_payload_bytes),
        keys=keys,
        slices=TimeSlices(),
        spool_space=SpoolSpace(settings.upload_space),
        leases=lease_service,
        lease_waiters=LeaseWaiters(
            engine, broker, settings.require_database(), lease_service, leased_payloads, settings.lease_ttl
        ),
    )

    def forget_limits() -> None:
        limits.forget()
        submissions.forget_queues()

    presence = Presence(engine, "api", _stop, part_of=part_of)
    watch = SettingsWatch(
        engine,
        settings.require_database(),
        {LIMITS: forget_limits, TYPES: type_cache.forget, KEYS: keys.forget, DRAINS: presence.look},
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        background = [asyncio.create_task(state.watcher.run()), asyncio.create_task(state.limits.run())]
        background.append(asyncio.create_task(_say_what_the_ledger_lacks(engine)))
        background.append(asyncio.create_task(_keep_metadata_keys(engine, settings.metadata_keys)))
        background.append(asyncio.create_task(measurements.keep_reporting(engine)))
        background.append(asyncio.create_task(watch.run()))
        background.append(asyncio.create_task(keys.run()))
        background.append(asyncio.create_task(presence.run()))
        _on_stop(state.watcher.close)
        _on_stop(state.lease_waiters.close)
        process.tune_garbage_collector()
        tracing.start("api")
        async with observed_loop(), metrics_port.refreshed(partial(refresh_all, engine, broker, settings.lease_ttl)):
            yield
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await presence.end()
        await state.lease_waiters.aclose()
        await state.submissions.close()
        await late_tasks_ended()
        await broker.close()
        await engine.dispose()
        tracing.stop()

    serve_under(settings.root_path)
    app = Application(
        ProxyHeaders(settings.root_path, settings.trusted_proxies),
        BrowserGuard(settings.allowed_hosts) if settings.auth == "off" else None,
        title="Accepted",
        version=accepted.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.accepted = state
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestLog)  # added last: it is around the others
    problems.install(app)
    for part in ROUTES:
        app.include_router(part.router, dependencies=[Depends(refuse_repeated_query)])
    if settings.dashboard == "on":
        dashboard.install(app)
    if settings.metrics_port is None:
        app.include_router(health.figures, dependencies=[Depends(refuse_repeated_query)])
    return app


async def _say_what_the_ledger_lacks(engine: AsyncEngine) -> None:
    """Log what is wrong with the ledger at the start, until nothing is. The process serves meanwhile."""
    await retry_until_available(partial(migrate.check_at_start, engine), "waiting_for_ledger")


async def _keep_metadata_keys(engine: AsyncEngine, keys: Sequence[str]) -> None:
    """Index the metadata of jobs by the keys of the setting, once the ledger is there."""

    async def keep() -> None:
        async with transaction(engine) as conn:
            await metadata_index.keep_keys(conn, keys)
            await conn.commit()

    await retry_until_available(keep, "waiting_for_ledger")


def _stop() -> None:
    """Stop as SIGTERM does: accept nothing more, answer what has arrived."""
    os.kill(os.getpid(), signal.SIGTERM)


def _on_stop(act: Callable[[], None]) -> None:
    """Call `act` as soon as the process receives a stop signal; the lifespan ends only after the last answer.

    A program in one of whose threads the application runs has its own way to stop.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)

        def handle(number: int, frame: FrameType | None, before: object = before) -> None:
            loop.call_soon_threadsafe(act)
            if callable(before):
                before(number, frame)

        signal.signal(number, handle)


def from_environment() -> FastAPI:
    """The application of a process started by uvicorn's supervisor. It does not outlive the supervisor.

    Of several such processes the first one has the port of the metrics.
    """
    if parent := multiprocessing.parent_process():
        process.end_with(parent.sentinel, os.getpid())
    logs.configure()
    settings = load()
    try:
        metrics_port.listen(settings.metrics_port)
    except ConfigurationError as error:
        log.info("metrics_port_not_ours", reason=str(error))
    return create_app(settings, "api")
