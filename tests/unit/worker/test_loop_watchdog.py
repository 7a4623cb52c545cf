"""The watchdog of an event loop: whom it blames, and for how long. The clock is the test's."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from accepted.context import EndRequest
from accepted.domain.references import Lease
from accepted_worker.attempt.handler_call import CalledAttempt, HandlerCall, task_factory
from accepted_worker.attempt.slots import OrphanedHandlers
from accepted_worker.runtime import loop_watchdog
from accepted_worker.runtime.loop_watchdog import LOOK_SECONDS, Blocking, LoopWatchdog

ATTEMPT = CalledAttempt("report.print", Lease(UUID(int=1), 2, UUID(int=3)))
SECONDS = "accepted_event_loop_blocked_seconds_total"
LINE = next(n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith("# it is here"))


class Clock:
    """Seconds, for the watchdog."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class WatchedLoop:
    """An event loop in a thread of its own, which the test blocks and lets go."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.loop = asyncio.new_event_loop()
        self.loop.set_task_factory(task_factory)
        self._go_on = threading.Semaphore(0)
        self._in_it = threading.Semaphore(0)
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.watchdog = self.call(LoopWatchdog)

    def call(self, function: Callable[[], LoopWatchdog]) -> LoopWatchdog:
        async def called() -> LoopWatchdog:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(10)

    async def hold(self) -> None:
        self._in_it.release()
        self._go_on.acquire()  # it is here

    async def hold_in_a_task(self) -> None:
        await asyncio.gather(self.hold())

    def start(self, handler: Callable[[], object], times: int = 1) -> None:
        """Run `handler` as an attempt does, so many of them in one turn of the loop, and wait until one blocks it."""

        def begin() -> None:
            for _ in range(times):
                HandlerCall(handler, ATTEMPT, EndRequest(), OrphanedHandlers(), interruptible=True)  # type: ignore[arg-type]

        self.loop.call_soon_threadsafe(begin)
        self.wait_until_blocked()

    def wait_until_blocked(self) -> None:
        assert self._in_it.acquire(timeout=10)

    def let_go(self) -> None:
        self._go_on.release()

    def look(self, times: int = 1, after: float = LOOK_SECONDS) -> Blocking | None:
        for _ in range(times):
            self._clock.now += after
            self.watchdog.look()
        return self.watchdog.blocking


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop_watchdog, "time", clock)
    return clock


@contextmanager
def watched(clock: Clock) -> Iterator[WatchedLoop]:
    one = WatchedLoop(clock)
    yield one
    one.loop.call_soon_threadsafe(one.loop.stop)
    one.thread.join(10)
    one.loop.close()


@pytest.mark.parametrize("handler", ["hold", "hold_in_a_task"])
def test_it_names_the_attempt_and_the_line_that_block(clock: Clock, handler: str) -> None:
    before = REGISTRY.get_sample_value(SECONDS, {"type": "report.print"}) or 0.0
    with watched(clock) as one, capture_logs() as lines:
        one.start(getattr(one, handler))
        assert one.look(3) is None, "half a second is nothing"
        found = one.look(3)
        assert found is not None
        assert (found.attempt, found.where, found.seconds) == (ATTEMPT, f"{__file__}:{LINE}", 2.0)
        one.let_go()
        turned(one)
        assert one.look(2) is None
    assert REGISTRY.get_sample_value(SECONDS, {"type": "report.print"}) == before + 2.0
    told = {"type": "report.print", "job_id": str(UUID(int=1)), "attempt": 2, "where": f"{__file__}:{LINE}"}
    assert lines == [
        {"event": "loop_blocked", "log_level": "warning", "seconds": 1.0, **told},
        {"event": "loop_turns_again", "log_level": "warning", "seconds": 2.0, **told},
    ]


def test_it_blames_nobody_for_time_in_which_it_did_not_run_itself(clock: Clock) -> None:
    """The whole process was stopped for an hour."""
    with watched(clock) as one:
        one.start(one.hold)
        one.look(2)
        found = one.look(after=3600)
        assert found is not None
        assert found.seconds == 2 * LOOK_SECONDS
        one.let_go()


def test_it_blames_no_attempt_for_what_is_none(clock: Clock) -> None:
    with watched(clock) as one:
        one.loop.call_soon_threadsafe(lambda: one.loop.create_task(one.hold()))
        one.wait_until_blocked()
        found = one.look(5)
        assert found is not None
        assert found.attempt is None
        assert found.told == {"where": found.where, "seconds": 1.5}
        one.let_go()


def test_it_blames_no_attempt_because_another_was_slow_before(clock: Clock) -> None:
    """Many tasks take a little while each, one after another, and the loop comes to nothing else."""
    with watched(clock) as one, capture_logs() as lines:
        one.start(one.hold, times=8)
        for _ in range(7):
            assert one.look(2) is None
            one.let_go()
            one.wait_until_blocked()
        one.let_go()
    assert lines == []


def test_a_loop_that_turns_is_not_blocked(clock: Clock) -> None:
    with watched(clock) as one, capture_logs() as lines:
        for _ in range(10):
            turned(one)
            assert one.look() is None
    assert lines == []


def turned(one: WatchedLoop) -> None:
    """Wait until the loop has come to all that it was asked before."""
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), one.loop).result(10)
