"""A machine whose threads share its cores: a discrete simulation of who computes, who waits, and for how long.

A thread does one thing at a time, in the order asked for. Runnable threads share the cores equally, none with more than
one. A disk writes what is asked for while it writes in its next round, as PostgreSQL's group commit does.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable

Then = Callable[[], None]

EPSILON = 1e-12


class Thread:
    """Does its tasks one after the other."""

    def __init__(self, machine: "Machine") -> None:
        self.left = 0.0
        self.used = 0.0
        self._machine = machine
        self._tasks: deque[tuple[float, Then]] = deque()

    @property
    def runnable(self) -> bool:
        return bool(self._tasks)

    def compute(self, seconds: float, then: Then) -> None:
        """Use so much CPU time, after what was asked for before; `then` is called at its end."""
        if not seconds:
            then()
            return
        self._machine.move_on()
        self._tasks.append((seconds, then))
        if len(self._tasks) == 1:
            self.left = seconds

    def advance(self, seconds: float) -> Then | None:
        """Compute for so long. Returns what follows if that ends a task."""
        self.left -= seconds
        self.used += seconds
        if self.left > EPSILON:
            return None
        _, then = self._tasks.popleft()
        self.left = self._tasks[0][0] if self._tasks else 0.0
        return then


class Cores:
    """Some cores, and the threads that share them."""

    def __init__(self, number: float) -> None:
        self._number = number
        self._threads: list[Thread] = []

    def add(self, thread: Thread) -> None:
        self._threads.append(thread)

    def next_end(self) -> float:
        """Seconds until a task ends; infinite while nobody computes."""
        runnable = self._runnable()
        return min(each.left for each in runnable) / self._share(runnable) if runnable else math.inf

    def advance(self, seconds: float) -> list[Then]:
        runnable = self._runnable()
        share = self._share(runnable) * seconds
        return [then for thread in runnable if (then := thread.advance(share)) is not None]

    def _runnable(self) -> list[Thread]:
        return [thread for thread in self._threads if thread.runnable]

    def _share(self, runnable: list[Thread]) -> float:
        return min(1.0, self._number / len(runnable)) if runnable else 0.0


class Machine:
    """A clock, and all that computes."""

    def __init__(self) -> None:
        self.now = 0.0
        self._cores: list[Cores] = []
        self._computed_until = 0.0
        self._timers: list[tuple[float, int, Then]] = []
        self._numbers = itertools.count()
        self._ended: deque[Then] = deque()

    def cores(self, number: float) -> Cores:
        cores = Cores(number)
        self._cores.append(cores)
        return cores

    def thread(self, cores: Cores) -> Thread:
        thread = Thread(self)
        cores.add(thread)
        return thread

    def later(self, seconds: float, then: Then) -> None:
        """Call `then` after this time."""
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), then))

    def move_on(self) -> None:
        """Let everybody compute until now."""
        seconds, self._computed_until = self.now - self._computed_until, self.now
        if seconds > 0:
            for cores in self._cores:
                self._ended += cores.advance(seconds)

    def run(self) -> None:
        """Until nothing computes and no timer is set."""
        while True:
            until = min(self.now + min(cores.next_end() for cores in self._cores), self._next_timer())
            if math.isinf(until):
                return
            self.now = until
            self.move_on()
            while self._ended:
                self._ended.popleft()()
            while self._next_timer() <= self.now:
                heapq.heappop(self._timers)[2]()

    def _next_timer(self) -> float:
        return self._timers[0][0] if self._timers else math.inf


class Disk:
    """Flushes in rounds: whoever asks while one is under way is in the next."""

    def __init__(self, machine: Machine, seconds: float) -> None:
        self.flushes = 0
        self._machine = machine
        self._seconds = seconds
        self._asked: list[Then] = []
        self._flushing = False

    def flush(self, then: Then) -> None:
        self._asked.append(then)
        if not self._flushing:
            self._begin()

    def _begin(self) -> None:
        self._flushing, asked, self._asked = True, self._asked, []
        self.flushes += 1

        def done() -> None:
            self._flushing = False
            for then in asked:
                then()
            if self._asked and not self._flushing:
                self._begin()

        self._machine.later(self._seconds, done)
