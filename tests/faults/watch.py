"""Watches the memory of processes over a run: is it flat once they have warmed up?"""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping

import psutil

from tests.support.service.processes import Service

EVERY = 2.0  # seconds between samples
MIB = 2**20


class MemoryWatch:
    """Start `run` as a task, cancel it, then ask for `slopes`."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = services
        self._samples: dict[str, list[tuple[float, float]]] = defaultdict(list)

    async def run(self) -> None:
        while True:
            for name, service in self._services.items():
                self._samples[name].append((time.monotonic() / 60, psutil.Process(service.pid).memory_info().rss / MIB))
            await asyncio.sleep(EVERY)

    def slopes(self) -> dict[str, tuple[float, float]]:
        """By name: MiB a minute over the second half of the run, and MiB at its end."""
        return {name: (_slope(samples[len(samples) // 2 :]), samples[-1][1]) for name, samples in self._samples.items()}


def _slope(samples: list[tuple[float, float]]) -> float:
    times, sizes = zip(*samples, strict=True)
    return statistics.linear_regression(times, sizes).slope if len(samples) > 1 else 0.0
