"""The loops that turn in this process: when each last ran, how it went, and whether one has stopped turning."""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

EVENT_LOOP = "event loop"
"""The name of the loop that turns all others."""

STUCK = 90.0
"""Seconds by which a round is late, or for which it runs, when its loop has stopped turning. Every command has a
timeout of seconds, and a round is bounded. A loop that fails turns: to start it anew would mend nothing."""


class LoopReport(msgspec.Struct, kw_only=True):
    """How a loop has fared since its process started. `seconds` is what its last round took.

    `failing_since` is when the first of the last rounds failed, if the last one did.
    """

    name: str
    last_run_at: datetime | None = None
    last_success_at: datetime | None = None
    failing_since: datetime | None = None
    seconds: float | None = None
    failures: int = 0

    @property
    def troubled_since(self) -> datetime | None:
        """Since when its rounds fail, or one of them does not end; None if the last one has succeeded."""
        if self.failing_since is not None or self.last_run_at is None:
            return self.failing_since
        ended = self.last_success_at is not None and self.last_success_at >= self.last_run_at
        return None if ended else self.last_run_at


class TurningLoop:
    """The record of a loop, kept by who runs it. Other threads may read it."""

    def __init__(self, name: str) -> None:
        self.report = LoopReport(name=name)
        self._began = time.monotonic()
        self._due = self._began

    @property
    def stuck(self) -> bool:
        return time.monotonic() > self._due + STUCK

    def begin(self) -> None:
        """A round begins."""
        self.report.last_run_at = datetime.now(UTC)
        self._began = self._due = time.monotonic()

    def succeed(self) -> None:
        """The round has done what was due."""
        self.report.last_success_at = datetime.now(UTC)
        self.report.failing_since = None
        self.report.seconds = time.monotonic() - self._began

    def fail(self) -> None:
        """The round has failed, and will be tried again."""
        self.report.failures += 1
        self.report.failing_since = self.report.failing_since or datetime.now(UTC)
        self.report.seconds = time.monotonic() - self._began

    def rest(self, seconds: float) -> None:
        """The next round begins in so many seconds."""
        self._due = time.monotonic() + seconds


_turning: list[TurningLoop] = []


@contextlib.contextmanager
def turning(name: str) -> Iterator[TurningLoop]:
    """Meanwhile this process has a loop of that name."""
    loop = TurningLoop(name)
    _turning.append(loop)
    try:
        yield loop
    finally:
        _turning.remove(loop)


def reports() -> list[LoopReport]:
    """Of each loop of the scheduler that turns here."""
    return [loop.report for loop in _turning if loop.report.name != EVENT_LOOP]


def stuck() -> list[str]:
    """The names of the loops that have stopped turning."""
    return sorted(loop.report.name for loop in tuple(_turning) if loop.stuck)
