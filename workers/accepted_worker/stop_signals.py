"""The signals that stop a process, which handlers that run in its main thread can take away.

`signal.signal(SIGTERM, SIG_IGN)` in an `async def` handler would leave a worker that does not stop, and whose jobs wait
for their leases when it is killed.
"""

import asyncio
import signal
from _signal import getsignal  # type: ignore[import-not-found]  # what `signal.getsignal` calls, 20 times as fast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)


class StopSignals:
    """The handlers of `numbers`, which `install` sets, at once and whenever they are not what it has set.

    Create it, and call `restore`, in the main thread.
    """

    def __init__(self, numbers: Iterable[int], install: Callable[[], None]) -> None:
        self._numbers = tuple(numbers)
        self._install = install
        self._install_all()

    def restore(self, type_: str) -> None:
        """Call it after an attempt; `type_` is its job's. Costs a microsecond where nothing has changed."""
        woken = signal.set_wakeup_fd(self._wakeup_fd) == self._wakeup_fd
        changed = [signal.Signals(n).name for n in self._numbers if getsignal(n) is not self._expected[n]]
        if changed or not woken:
            self._install_all()
            log.warning("signal_handler_restored", type=type_, signals=changed)

    def _install_all(self) -> None:
        self._install()
        self._expected = {number: getsignal(number) for number in self._numbers}
        self._wakeup_fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(self._wakeup_fd)


@dataclass(frozen=True, slots=True)
class StopOrders:
    """What the signals so far have told a process to do.

    `stopping`: to stop. `interrupted`: a Ctrl-C was among them. `at_once`: a second one, so it waits for no job.
    """

    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: asyncio.Event = field(default_factory=asyncio.Event)

    def interrupt(self) -> None:
        """Take a Ctrl-C. One that comes after a SIGTERM is the first one: who has sent it has seen no stop yet."""
        (self.at_once if self.interrupted.is_set() else self.interrupted).set()
        self.stopping.set()


def stop_on_signals(orders: StopOrders) -> StopSignals:
    """SIGTERM and SIGINT give `orders`."""
    loop = asyncio.get_running_loop()

    def install() -> None:
        loop.add_signal_handler(signal.SIGTERM, orders.stopping.set)
        loop.add_signal_handler(signal.SIGINT, orders.interrupt)

    return StopSignals((signal.SIGTERM, signal.SIGINT), install)
