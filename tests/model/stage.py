"""What the rules have in common: the model's world, and what is compared after every step."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from accepted.domain.job import NewJob
from accepted.domain.transitions import RunningAttempt
from accepted.services.jobs import completion
from accepted.services.jobs.submission import Submission
from tests.model import contract
from tests.model.ledger import LEASE_TTL, Ledger
from tests.model.model import Job
from tests.model.rows import UNIT, Snapshot

QUEUES = ["a", "b"]
WORKERS = [UUID(int=0xA), UUID(int=0xB), UUID(int=0xC)]
TENANT = "t"
NOTHING = Snapshot({}, {}, {})

picks = st.integers(0, 999)
workers = st.sampled_from(WORKERS)

One = TypeVar("One")
Body = Callable[..., Awaitable[None]]


@dataclass
class Coverage:
    """What was reached in all examples together."""

    rules: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    transitions: Counter[tuple[str, str]] = field(default_factory=Counter)
    crashes: Counter[int] = field(default_factory=Counter)
    examples: int = 0


@dataclass
class Key:
    """An idempotency key: the body it came with, and the job that it names until `expires`."""

    body: dict[str, Any]
    job: UUID
    expires: float


class Everything:
    """Which rules an example may use, in the place of Hypothesis's own answer."""

    def is_enabled(self, _rule: str) -> bool:
        return True


class Stage(RuleBasedStateMachine):
    """Begins with an empty ledger. `ledger` and `coverage` are set by the test.

    In each example Hypothesis leaves out rules at random, half of them on average ("swarm testing"): good for finding
    what only many repetitions show, and bad for reaching everything soon. `swarm` says whether it may.
    """

    ledger: ClassVar[Ledger]
    coverage: ClassVar[Coverage]
    swarm: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        if not self.swarm:
            self._rules_strategy.enabled_rules_strategy = st.just(Everything())
        self.now = 0.0
        self.turn = 0
        self.jobs: dict[UUID, Job] = {}
        self.keys: dict[str, Key] = {}
        self.beats: dict[UUID, float] = {}
        self.silent: set[UUID] = set()
        self.claimed: list[RunningAttempt] = []
        self.references: list[tuple[UUID, int]] = []
        self.made = 0
        self.steps = 0
        self.seen = NOTHING
        self.coverage.examples += 1
        self.ledger.run(self.ledger.reset())

    @property
    def seldom(self) -> bool:
        """For rules that are nearly always possible and lead nowhere: they would crowd out those that do."""
        return self.steps % 4 == 0

    def new_turn(self) -> int:
        self.turn += 1
        return self.turn

    def new_id(self) -> UUID:
        """Small and rising, so that an example is the same each time, down to the order of its locks."""
        self.made += 1
        return UUID(int=self.made)

    def having(self, *statuses: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.status in statuses]

    def letters(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.letter is not None]

    def current(self, running: RunningAttempt) -> bool:
        """Whether this attempt is still its worker's."""
        job = self.jobs[running.job_id]
        return job.lease is not None and (job.attempt, job.lease.worker) == (running.attempt, running.worker_id)

    def live(self) -> list[RunningAttempt]:
        return [running for running in self.claimed if self.current(running)]

    def over(self) -> list[RunningAttempt]:
        return [running for running in self.claimed if not self.current(running)]

    def publish(self, job: Job, turn: int) -> None:
        job.publish(self.now, turn)
        self.references.append((job.id, job.attempt))

    def abandoned(self) -> list[Job]:
        """Running jobs whose worker has been silent for longer than its lease, or is gone."""
        limit = self.now - LEASE_TTL / UNIT
        return [job for job in self.having("running") if job.lease and self.beats.get(job.lease.worker, limit) <= limit]

    async def beat(self, worker: UUID) -> None:
        await self.ledger.beat(worker)
        self.beats[worker] = self.now
        self.silent.discard(worker)

    async def cancel(self, job: Job) -> str:
        """Ask for it. Returns the job's status then."""
        job.cancel()
        return (await completion.cancel(self.ledger.engine, self.ledger.broker, await self.ledger.job(job.id))).status

    async def compare(self, step: str, asked_again: bool) -> None:
        """Every row with the model, and every step with the contract."""
        before, self.seen = self.seen, await self.ledger.snapshot()
        self.steps += 1
        self.coverage.rules[step] += 1
        self.coverage.transitions += contract.check(before, self.seen, asked_again)
        self.coverage.statuses.update({row.status for row in self.seen.jobs.values()})
        self.coverage.crashes.update({row.crashes for row in self.seen.jobs.values()})
        contract.check_keys(before, self.seen)
        expected = Snapshot(
            {job.id: job.row(self.now) for job in self.jobs.values()},
            {name: (key.job, key.expires - self.now) for name, key in self.keys.items()},
            {worker: beat - self.now for worker, beat in self.beats.items()},
        )
        assert self.seen == expected, "\n".join([f"after {step}:", *_differences(expected, self.seen)])


def step(
    *, first: bool = False, when: Callable[[Any], object] | None = None, asks_again: bool = False, **given: Any
) -> Callable[[Body], Any]:
    """A rule: run on the ledger's loop, then compared. `when` is what has to be there; `first` comes once, before all
    others; `asks_again` allows what `contract.ASKED_FOR` names."""

    def decorate(body: Body) -> Any:
        @wraps(body)
        def stepped(self: Stage, **values: Any) -> None:
            async def whole() -> None:
                await body(self, **values)
                await self.compare(body.__name__, asks_again)

            self.ledger.run(whole())

        made = (initialize if first else rule)(**given)(stepped)
        return made if when is None else precondition(lambda self: bool(when(self)))(made)

    return decorate


def pick(among: Sequence[One], number: int) -> One:
    return among[number % len(among)]


def a_submission(body: dict[str, Any], key: str | None, fingerprint: bytes | None, job_id: UUID) -> Submission:
    return Submission(NewJob(id=job_id, tenant=TENANT, type="noop", **body), key, fingerprint)


def _differences(expected: Snapshot, found: Snapshot) -> list[str]:
    """The fields that differ, as (what the model says, what the ledger has)."""
    lines = [
        f"{part}: {getattr(expected, part)} is {getattr(found, part)}"
        for part in ("keys", "workers")
        if getattr(expected, part) != getattr(found, part)
    ]
    for job_id in expected.jobs.keys() | found.jobs.keys():
        one, other = expected.jobs.get(job_id), found.jobs.get(job_id)
        if one is None or other is None:
            lines.append(f"job {job_id.int}: {one} is {other}")
            continue
        pairs = [(each.name, getattr(one, each.name), getattr(other, each.name)) for each in fields(one)]
        lines += [f"job {job_id.int}, {name}: {this} is {that}" for name, this, that in pairs if this != that]
    return lines
