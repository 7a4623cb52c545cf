"""The Prometheus metrics of every process. What all see alike in the ledger is in `accepted.queue_figures`."""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from tempfile import TemporaryDirectory

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

import accepted
from accepted import process
from accepted.domain.monitoring.statistics import OTHERS, Series
from accepted.loops import EVENT_LOOP, turning

log = structlog.get_logger(__name__)


class ClientNames:
    """The values of a label that clients choose, at most `most` of them in one process.

    Each is a series, kept in memory here and in Prometheus: a client must not make them without end.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._shown: set[str] = set()

    def shown_as(self, name: str) -> str:
        """The value of the label for `name`: itself, or `OTHERS` when there are enough."""
        if name not in self._shown:
            if len(self._shown) >= self.most:
                return OTHERS
            self._shown.add(name)
        return name

    @property
    def shown(self) -> frozenset[str]:
        return frozenset(self._shown)

    def forget(self, name: str) -> None:
        self._shown.discard(name)


QUEUES = ClientNames(1000)
LEASED_TYPES = ClientNames(200)
"""Types of jobs that HTTP workers run; one has some 25 series. Those with a handler here are as many as we have."""

JOBS_ACCEPTED = Counter("accepted_jobs_accepted_total", "Jobs committed and answered with 202.", ["queue"])
SUBMISSIONS_REPLAYED = Counter(
    "accepted_submissions_replayed_total", "Submissions answered from an idempotency record."
)
BATCH_SIZE = Histogram(
    "accepted_batch_size",
    "Jobs or outcomes written in one transaction.",
    ["of"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
)  # fmt: skip
ATTEMPTS = Counter("accepted_attempts_total", "Attempts that ended, by type and outcome.", ["type", "outcome"])
ATTEMPT_SECONDS = Histogram(
    "accepted_attempt_seconds", "Run time of attempts.", ["type"],
    buckets=(0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)  # fmt: skip
JOB_WAIT = Histogram(
    "accepted_job_wait_seconds",
    "From when an attempt was due to its start; not of jobs that waited for others, or whose worker had died.",
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200),
)
WORKER_SLOTS = Gauge("accepted_worker_slots", "Slots for handlers: those in use, and the others.", ["state"])
ORPHANED_HANDLERS = Gauge(
    "accepted_orphaned_handlers",
    "Handlers that still run although their attempt is over, by where they run.",
    ["in"],
)
TARGETS_DEFERRED = Counter(
    "accepted_targets_deferred_total",
    'Times that this worker deferred a host. Deferred attempts are accepted_attempts_total{outcome="deferred"}.',
    ["reason"],
)
OUTCOMES_FENCED = Counter(
    "accepted_outcomes_fenced_total", "Late outcomes that were not recorded, because their attempt had ended."
)
MESSAGES_DROPPED = Counter(
    "accepted_messages_dropped_total",
    "Messages that led to no attempt: malformed, unknown, stale, duplicate, unserved.",
    ["reason"],
)
MESSAGES_REJECTED = Gauge(
    "accepted_rejected_messages",
    "Messages in accepted.dead that were not references to jobs; NaN: not known.",
    multiprocess_mode="mostrecent",
)
MESSAGES_REJECTED.set(math.nan)


class Problems(Collector):
    """What is wrong now, by kind and queue. Found anew for each answer, so that processes never add theirs up."""

    def __init__(self) -> None:
        self._found: Mapping[tuple[str, str], int] = {}

    def show(self, found: Mapping[tuple[str, str], int]) -> None:
        self._found = found

    def collect(self) -> Iterator[GaugeMetricFamily]:
        problems = GaugeMetricFamily(
            "accepted_problems",
            "What GET /status finds wrong, by kind, and by queue if it has one.",
            labels=["kind", "queue"],
        )
        for labels, count in self._found.items():
            problems.add_metric(labels, count)
        yield problems


PROBLEMS = Problems()
REGISTRY.register(PROBLEMS)
REFS_PUBLISHED = Counter("accepted_refs_published_total", "References confirmed by the broker.", ["by"])
LOOP_DONE = Counter("accepted_loop_rows_total", "Rows handled by each scheduler loop.", ["loop"])
LOOP_FAILED = Counter("accepted_loop_failures_total", "Failed runs of each scheduler loop.", ["loop"])
LOOP_SUCCEEDED = Gauge(
    "accepted_loop_last_success_timestamp_seconds", "When each scheduler loop last did what was due.", ["loop"]
)
LOOP_LAG = Histogram(
    "accepted_event_loop_lag_seconds",
    "How much later than asked the event loop of this process turns, looked at forty times a second; at rest, twice.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LOOP_BLOCKED = Counter(
    "accepted_event_loop_blocked_seconds_total",
    "Seconds for which one attempt held up the event loop of this worker, by its type; empty: not an attempt.",
    ["type"],
)

DESCRIPTORS_LACKED = Counter(
    "accepted_descriptors_lacked_total",
    "Times, looked at once a second, that this process could open no file: new connections are closed then.",
)

BUILD_INFO = Gauge("accepted_build_info", "1 for the version that runs here.", ["version"], multiprocess_mode="max")
BUILD_INFO.labels(accepted.__version__).set(1)

_SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which the Prometheus client counts in files of a directory, for several processes together."""

LOOKED_AT_EVERY = 0.025
"""Seconds. A computation that holds the loop for longer is seen, less at most this time."""

LOOKED_AT_REST = 0.5
"""Seconds between looks while the process has next to nothing to do: waking up is most of what they cost."""

BUSY = 0.03
"""The share of a core from which on a process is not at rest."""

_observing: set[asyncio.AbstractEventLoop] = set()


@contextlib.asynccontextmanager
async def observed_loop() -> AsyncIterator[None]:
    """Meanwhile observe the lag of this event loop, and the descriptors; once, whatever number of parts asks for it."""
    loop = asyncio.get_running_loop()
    if loop in _observing:
        yield
        return
    _observing.add(loop)
    observing = asyncio.gather(_observe(loop), _observe_descriptors())
    try:
        yield
    finally:
        _observing.discard(loop)
        observing.cancel()
        await asyncio.gather(observing, return_exceptions=True)


async def _observe_descriptors() -> None:
    """The kernel and libuv turn connections away without a word to us."""
    lacked = False
    while True:
        await asyncio.sleep(1.0)
        before, lacked = lacked, process.lacks_descriptors()
        if lacked:
            DESCRIPTORS_LACKED.inc()
        if lacked and not before:
            log.error("no_descriptors_left", hint="new connections are closed; raise the limit of open files")
        elif before and not lacked:
            log.info("descriptors_again")


async def _observe(loop: asyncio.AbstractEventLoop) -> None:
    every, used = LOOKED_AT_EVERY, time.process_time()
    with turning(EVENT_LOOP) as turns:
        while True:
            due = loop.time() + every
            turns.rest(every)
            await asyncio.sleep(every)
            LOOP_LAG.observe(max(loop.time() - due, 0.0))
            before, used = used, time.process_time()
            every = LOOKED_AT_EVERY if used - before > BUSY * every else min(2 * every, LOOKED_AT_REST)


def registry() -> CollectorRegistry:
    """What is to be shown: the metrics of this process, or those of all `api --workers` together."""
    if _SHARED not in os.environ:
        return REGISTRY
    together = CollectorRegistry()
    MultiProcessCollector(together)  # type: ignore[no-untyped-call]
    together.register(PROBLEMS)
    return together


@contextlib.contextmanager
def counted_together() -> Iterator[None]:
    """Meanwhile processes that this one starts count in one directory: each of them shows the counts of all.

    What an ended process has counted stays in it.
    """
    with TemporaryDirectory(prefix="accepted-metrics-") as directory:
        os.environ[_SHARED] = directory
        try:
            yield
        finally:
            del os.environ[_SHARED]


def count_accepted(jobs: Mapping[Series, int]) -> None:
    """So many jobs of each series have been committed and answered."""
    for (_, queue, _), count in jobs.items():
        JOBS_ACCEPTED.labels(QUEUES.shown_as(queue)).inc(count)


def forget_queues(names: Collection[str]) -> None:
    """Remove the series of these queues: a deleted one would be shown for as long as the process lives.

    Where several processes count together none can be removed, so that a new queue has no series after the first ones.
    """
    if _SHARED in os.environ:
        return
    for queue in names:
        JOBS_ACCEPTED.remove(queue)
        QUEUES.forget(queue)
