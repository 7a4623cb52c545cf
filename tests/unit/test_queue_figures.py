"""Counts of queues in the metrics are bounded, and shown only while they are fresh."""

import time

from accepted.domain.monitoring.statistics import OTHERS
from accepted.queue_figures import SHOWN, QueueFigure, QueueFigures, bounded


def test_the_smallest_queues_share_a_series() -> None:
    counted = {f"q{n}": QueueFigure({"queued": n, "running": 1}, oldest=100.0 - n, dead_letters=n) for n in range(5)}
    shown = bounded(counted, 3)
    assert shown.keys() == {"q2", "q3", "q4", OTHERS}
    assert shown["q4"] is counted["q4"]
    assert shown[OTHERS] == QueueFigure({"queued": 1, "running": 2}, oldest=100.0, dead_letters=1)
    assert bounded(counted, 5) == counted


def test_an_old_count_is_not_shown() -> None:
    figures = QueueFigures()
    assert list(figures.collect()) == []
    figures.show({"q": QueueFigure({"queued": 1})}, time.monotonic())
    assert {family.name for family in figures.collect()} == {
        "accepted_queue_jobs", "accepted_queue_oldest_seconds", "accepted_dead_letters",
    }  # fmt: skip
    figures.show({"q": QueueFigure({"queued": 1})}, time.monotonic() - SHOWN)
    assert list(figures.collect()) == []
