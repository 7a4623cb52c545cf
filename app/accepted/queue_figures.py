"""The metrics of the queues, which are the same for everybody: the scheduler that counted them last shows them alone.

A count is shown for `SHOWN` seconds. A scheduler that counts no more shows nothing, rather than what was.
"""

import heapq
import time
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from accepted.domain.monitoring.statistics import OTHERS
from accepted.metrics import QUEUES

SHOWN = 15.0
"""Seconds. No other scheduler counts before they have passed."""


class QueueFigure(msgspec.Struct, frozen=True):
    """What waits and runs on a queue: unfinished jobs by status, the age of the oldest, and dead letters."""

    jobs: dict[str, int] = {}
    oldest: float = 0.0
    dead_letters: int = 0


class QueueFigures(Collector):
    """The last count of this process, if it is not too old."""

    def __init__(self) -> None:
        self._counted: Mapping[str, QueueFigure] = {}
        self._until = 0.0

    def show(self, counted: Mapping[str, QueueFigure], counted_at: float) -> None:
        """Show this for `SHOWN` seconds from `counted_at` on, on the clock of `time.monotonic`."""
        self._counted = bounded(counted, QUEUES.most)
        self._until = counted_at + SHOWN

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if time.monotonic() < self._until:
            yield from _families(self._counted)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return _families({})


def bounded(counted: Mapping[str, QueueFigure], most: int) -> Mapping[str, QueueFigure]:
    """The `most` queues with the most jobs and dead letters, and the others as one."""
    if len(counted) <= most:
        return counted
    shown = set(heapq.nlargest(most, counted, key=lambda name: _size(counted[name])))
    rest = [figure for name, figure in counted.items() if name not in shown]
    return {name: counted[name] for name in shown} | {OTHERS: _together(rest)}


def _size(figure: QueueFigure) -> int:
    return sum(figure.jobs.values()) + figure.dead_letters


def _together(figures: list[QueueFigure]) -> QueueFigure:
    statuses = {status for figure in figures for status in figure.jobs}
    return QueueFigure(
        jobs={status: sum(figure.jobs.get(status, 0) for figure in figures) for status in statuses},
        oldest=max(figure.oldest for figure in figures),
        dead_letters=sum(figure.dead_letters for figure in figures),
    )


def _families(counted: Mapping[str, QueueFigure]) -> list[GaugeMetricFamily]:
    jobs = GaugeMetricFamily("accepted_queue_jobs", "Unfinished jobs, by status.", labels=["queue", "status"])
    oldest = GaugeMetricFamily(
        "accepted_queue_oldest_seconds", "For how long the oldest job that is due has waited.", labels=["queue"]
    )
    letters = GaugeMetricFamily(
        "accepted_dead_letters", "Failed jobs that someone has still to decide about.", labels=["queue"]
    )
    for queue, figure in counted.items():
        for status, count in figure.jobs.items():
            jobs.add_metric([queue, status], count)
        oldest.add_metric([queue], figure.oldest)
        letters.add_metric([queue], figure.dead_letters)
    return [jobs, oldest, letters]


FIGURES = QueueFigures()
REGISTRY.register(FIGURES)
