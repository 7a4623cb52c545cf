"""The drain of a queue as our processes do it: claims, handlers and outcomes of workers, with costs that were measured.

Each cost has a part for a batch and a part for each job in it, because that is what makes batches pay
(docs/sizing.md has the table, and how it was measured).
"""

from dataclasses import dataclass

from tests.benchmarks.simulation.machine import Disk, Machine, Then, Thread

MAX_BATCH = 200  # accepted.services.jobs.completion
LINGER = 0.002
AHEAD = MAX_BATCH  # jobs that a worker with no-op jobs claims beyond its slots
MOST_UNRECORDED = MAX_BATCH

TURN = 10
"""Jobs that a worker runs before it looks at what else has come."""

PLENTY = 1e6


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU time."""

    batch: float
    job: float

    def of(self, jobs: int) -> float:
        return self.batch + self.job * jobs


@dataclass(frozen=True)
class Costs:
    """What a job costs whom. `message`: RabbitMQ; 0 where the ledger is the broker."""

    worker_claim: Cost
    worker_outcome: Cost
    ledger_claim: Cost
    ledger_outcome: Cost
    message: float
    flush: float


@dataclass
class Drained:
    """Jobs a second, and the cores that each part has used on average."""

    rate: float
    workers: float
    ledger: float
    broker: float
    flushes: float


class Worker:
    """One process with `slots`. It claims ahead of them, and records outcomes together."""

    def __init__(self, drain: "Drain", slots: int) -> None:
        self._drain = drain
        self._room = slots + AHEAD
        self._ended = self._unrecorded = 0
        self._claiming = self._recording = False
        self.thread = drain.machine.thread(drain.worker_cores)
        self.claims, self.outcomes = (drain.machine.thread(drain.ledger_cores) for _ in range(2))

    def claim(self) -> None:
        """A claim begins when half of what was claimed ahead has begun, so that it is a large one."""
        if self._claiming or 2 * self._room < AHEAD or self._unrecorded >= MOST_UNRECORDED:
            return
        jobs = self._drain.take(min(self._room, MAX_BATCH))
        if not jobs:
            return
        self._claiming = True
        self._room -= jobs
        costs = self._drain.costs

        def claimed() -> None:
            self.thread.compute(costs.worker_claim.batch, lambda: None)
            for first in range(0, jobs, TURN):
                some = min(TURN, jobs - first)
                self.thread.compute(costs.worker_claim.job * some, lambda some=some: self._end(some))
            self._drain.machine.later(LINGER, again)

        def again() -> None:
            self._claiming = False
            self.claim()

        self._drain.commit(self.claims, costs.ledger_claim.of(jobs), claimed)

    def _end(self, jobs: int) -> None:
        self._room += jobs
        self._ended += jobs
        self._unrecorded += jobs
        self._record()
        self.claim()

    def _record(self) -> None:
        jobs = min(self._ended, MAX_BATCH)
        if self._recording or not jobs:
            return
        self._recording = True
        self._ended -= jobs
        costs = self._drain.costs

        def committed() -> None:
            self.thread.compute(costs.worker_outcome.of(jobs), recorded)

        def recorded() -> None:
            self._unrecorded -= jobs
            self._drain.end(jobs)
            self.claim()
            self._drain.machine.later(LINGER, again)

        def again() -> None:
            self._recording = False
            self._record()

        self._drain.commit(self.outcomes, costs.ledger_outcome.of(jobs), committed)


class Drain:
    """No-op jobs that wait, and workers that begin at once.

    Everything shares `cores`, or (`apart`) the ledger has them to itself and the rest has as many as it needs.
    """

    def __init__(self, costs: Costs, cores: int, *, apart: bool = False) -> None:
        self.costs = costs
        self.machine = Machine()
        self.ledger_cores = self.machine.cores(cores)
        self.worker_cores = self.machine.cores(PLENTY) if apart else self.ledger_cores
        self._disk = Disk(self.machine, costs.flush)
        self._broker = self.machine.thread(self.worker_cores)
        self._left = self._ended = 0

    def run(self, jobs: int, workers: int, slots: int) -> Drained:
        self._left = jobs
        fleet = [Worker(self, slots) for _ in range(workers)]
        for worker in fleet:
            worker.claim()
        self.machine.run()
        seconds = self.machine.now
        return Drained(
            rate=self._ended / seconds,
            workers=sum(worker.thread.used for worker in fleet) / seconds,
            ledger=sum(worker.claims.used + worker.outcomes.used for worker in fleet) / seconds,
            broker=self._broker.used / seconds,
            flushes=self._disk.flushes / seconds,
        )

    def take(self, most: int) -> int:
        jobs = min(most, self._left)
        self._left -= jobs
        return jobs

    def commit(self, connection: Thread, seconds: float, then: Then) -> None:
        """A statement, and the flush of its commit."""
        connection.compute(seconds, lambda: self._disk.flush(then))

    def end(self, jobs: int) -> None:
        self._ended += jobs
        self._broker.compute(self.costs.message * jobs, lambda: None)
