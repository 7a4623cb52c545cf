"""The drain of a queue as our processes do it: claims, handlers and outcomes of workers, with costs that were measured.

Each cost has a part for a batch and a part for each job in it, because that is what makes batches pay
(docs/sizing.md has the table, and how it was measured).
"""

from dataclasses import dataclass

from tests.benchmarks.simulation.machine import Disk, Machine, Then, Thread

MAX_BATCH = 200  # accepted.services.jobs.completion
LINGER = 0.002
AHEAD = 140  # jobs beyond the slots that a worker with no-op jobs has claimed or is recording

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
    """What a job costs whom. `message`: RabbitMQ; `beside`: PostgreSQL, besides the statements, such as its vacuum."""

    worker_claim: Cost
    worker_outcome: Cost
    ledger_claim: Cost
    ledger_outcome: Cost
    message: float
    beside: float
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
        self._ended = 0
        self._claiming = self._recording = False
        self.thread = drain.machine.thread(drain.worker_cores)
        self.claims, self.outcomes = (drain.machine.thread(drain.ledger_cores) for _ in range(2))

    def claim(self) -> None:
        jobs = 0 if self._claiming else self._drain.take(min(self._room, MAX_BATCH))
        if not jobs:
            return
        self._claiming = True
        self._room -= jobs
        costs = self._drain.costs

        def claimed() -> None:
            self.thread.compute(costs.worker_claim.of(jobs), lambda: self._end(jobs))
            self._drain.machine.later(LINGER, again)

        def again() -> None:
            self._claiming = False
            self.claim()

        self._drain.commit(self.claims, costs.ledger_claim.of(jobs), claimed)

    def _end(self, jobs: int) -> None:
        self._ended += jobs
        self._record()

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
            self._room += jobs
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
        self._beside = self.machine.thread(self.ledger_cores)
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
            ledger=(self._beside.used + sum(each.claims.used + each.outcomes.used for each in fleet)) / seconds,
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
        for thread, cost in ((self._broker, self.costs.message), (self._beside, self.costs.beside)):
            thread.compute(cost * jobs, lambda: None)
