"""The loops that turn in this process: when each last ran, and how it went."""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec


class LoopReport(msgspec.Struct, kw_only=True):
    """How a loop has fared since its process started. `seconds` is what its last round took."""

    name: str
    last_run_at: datetime | None = None
    last_success_at: datetime | None = None
    seconds: float | None = None
    failures: int = 0


class TurningLoop:
    """The record of a loop, kept by who runs it."""

    def __init__(self, name: str) -> None:
        self.report = LoopReport(name=name)
        self._began = 0.0

    def begin(self) -> None:
        """A round begins."""
        self.report.last_run_at = datetime.now(UTC)
        self._began = time.monotonic()

    def succeed(self) -> None:
        """The round has done what was due."""
        self.report.last_success_at = datetime.now(UTC)
        self.report.seconds = time.monotonic() - self._began

    def fail(self) -> None:
        """The round has failed, and will be tried again."""
        self.report.failures += 1
        self.report.seconds = time.monotonic() - self._began


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
    """Of each loop that turns here."""
    return [loop.report for loop in _turning]
