"""Rules of workers: they claim, and end what they have claimed, in time or too late."""

import msgspec
from hypothesis import strategies as st

from accepted.domain import transitions
from accepted.domain.failures import FailureClass, OnNotFound
from accepted.domain.transitions import RunningAttempt, Transition
from accepted.storage.attempts.claims import Claim
from tests.model.ledger import running_attempt
from tests.model.model import Job
from tests.model.rows import UNIT
from tests.model.stage import QUEUES, WORKERS, Stage, pick, picks, step, workers

FAILURES = [
    FailureClass.TRANSIENT, FailureClass.TRANSIENT, FailureClass.TIMEOUT, FailureClass.INVALID, FailureClass.AUTH,
]  # fmt: skip
CHANCE = 0.5  # of a jitter of nothing
SERVED = [QUEUES, QUEUES[:1], QUEUES[1:]]
SLOTS = [500, 2, 1]


class Working(Stage):
    @step(when=lambda self: self._ready(), worker=workers, queues=st.sampled_from(SERVED), most=st.sampled_from(SLOTS))
    async def claim(self, worker, queues, most) -> None:
        """By priority, then by age: just those, if it cannot take all that is ready."""
        await self.beat(worker)
        ready = sorted((job for job in self._ready() if job.queue in queues), key=_order)
        while most < len(ready) and _order(ready[most]) == _order(ready[most - 1]):
            most += 1
        self._claimed(worker, ready[:most], await self.ledger.claim_next(worker, queues, most))

    @step(when=lambda self: self.references, worker=workers, numbers=st.lists(picks, min_size=1, max_size=4))
    async def claim_by_reference(self, worker, numbers) -> None:
        """What was ever published may come (again): it claims a job that still waits for that attempt, or nothing."""
        await self.beat(worker)
        references = [pick(self.references, number) for number in numbers]
        references.append(references[0])
        meant = [
            job for job in self.jobs.values()
            if (job.id, job.attempt) in references and job.waits_now and not job.late(self.now)
        ]  # fmt: skip
        self._claimed(worker, meant, await self.ledger.claim_refs(worker, references))

    @step(when=Stage.live, number=picks, result=st.integers(0, 9))
    async def succeed(self, number, result) -> None:
        running, job = self._one(number)
        await self._settle(transitions.succeeded(running, str(result)))
        job.succeed(str(result))

    @step(when=Stage.live, number=picks, kind=st.sampled_from(FAILURES))
    async def fail(self, number, kind) -> None:
        running, job = self._one(number)
        await self._settle(transitions.failed(running, kind, "x", CHANCE))
        job.fail(kind, self.now)

    @step(when=Stage.live, number=picks, retry_after=st.integers(0, 3))
    async def be_rate_limited(self, number, retry_after) -> None:
        """Not before `Retry-After`, then the schedule: whichever is later."""
        running, job = self._one(number)
        await self._settle(transitions.failed(running, FailureClass.RATE_LIMITED, "x", CHANCE, retry_after * UNIT))
        job.fail("rate_limited", self.now, retry_after)

    @step(when=Stage.live, number=picks, choice=st.sampled_from(list(OnNotFound)))
    async def not_find(self, number, choice) -> None:
        running, job = self._one(number)
        running = msgspec.structs.replace(running, not_found=choice)
        await self._settle(transitions.failed(running, FailureClass.NOT_FOUND, "x", CHANCE))
        if choice is OnNotFound.SKIP:
            job.succeed('{"skipped":true}')
        else:
            job.fail("not_found", self.now, at_once=choice is OnNotFound.FAIL)

    @step(when=Stage.live, number=picks)
    async def crash(self, number) -> None:
        """Its own process died, and its worker lives to say so. What has crashed before is likelier to do it again."""
        running = max(self.live(), key=lambda one: one.crashes) if number % 2 else pick(self.live(), number)
        job = self.jobs[running.job_id]
        await self._settle(transitions.crashed(running, CHANCE))
        job.crash(self.now)

    @step(when=Stage.live, number=picks)
    async def hand_back(self, number) -> None:
        running, job = self._one(number)
        await self._settle(transitions.handed_back(running))
        job.hand_back(self.now)

    @step(when=Stage.live, number=picks)
    async def be_unrecordable(self, number) -> None:
        running, job = self._one(number)
        await self._settle(transitions.unrecordable(running))
        job.fail("invalid", self.now)

    @step(when=Stage.live, number=picks)
    async def let_go(self, number) -> None:
        """The job is to be cancelled, and its handler ends at once."""
        running, job = self._one(number)
        assert await self.cancel(job) == "running"
        await self._settle(transitions.cancelled(running))
        job.let_go()

    @step(when=Stage.over, number=picks, choice=picks)
    async def end_too_late(self, number, choice) -> None:
        """The attempt was rescued, settled or cancelled meanwhile: nothing changes."""
        await self._fenced_off(pick(self.over(), number), choice)

    @step(when=Stage.live, number=picks, choice=picks, wrong=st.sampled_from(["worker_id", "attempt"]))
    async def end_what_another_one_has(self, number, choice, wrong) -> None:
        running, _ = self._one(number)
        other = {"worker_id": pick([one for one in WORKERS if one != running.worker_id], number), "attempt": 99}[wrong]
        await self._fenced_off(msgspec.structs.replace(running, **{wrong: other}), choice)

    @step(when=lambda self: self.live() and self.over(), number=picks, late=picks)
    async def succeed_beside_a_late_one(self, number, late) -> None:
        """In one batch each has its own fence."""
        running, job = self._one(number)
        past = pick(self.over(), late)
        batch = [transitions.succeeded(running, "1")]
        if past.job_id != running.job_id:
            batch.append(transitions.succeeded(past, "2"))
        assert list(await self.ledger.settle(*batch)) == [True, False][: len(batch)]
        job.succeed("1")

    def _ready(self) -> list[Job]:
        published = (job for job in self.having("queued") if job.place and job.place.published)
        return [job for job in published if not job.late(self.now)]

    def _one(self, number: int) -> tuple[RunningAttempt, Job]:
        running = pick(self.live(), number)
        return running, self.jobs[running.job_id]

    async def _settle(self, transition: Transition) -> None:
        assert list(await self.ledger.settle(transition)) == [True]

    async def _fenced_off(self, running: RunningAttempt, choice: int) -> None:
        all_transitions = [
            transitions.succeeded(running, "666"), transitions.failed(running, FailureClass.TRANSIENT, "late", CHANCE),
            transitions.failed(running, FailureClass.INVALID, "late", CHANCE), transitions.crashed(running, CHANCE),
            transitions.handed_back(running), transitions.cancelled(running),
            transitions.deferred(running, FailureClass.TIMEOUT, "late", 1.0, "example.org"),
        ]  # fmt: skip
        assert list(await self.ledger.settle(pick(all_transitions, choice))) == [False]

    def _claimed(self, worker, expected: list[Job], claims: list[Claim]) -> None:
        assert {claim.job.id for claim in claims} == {job.id for job in expected}
        for claim in sorted(claims, key=lambda claim: claim.job.id):
            job = self.jobs[claim.job.id]
            job.claim(worker)
            assert (claim.job.attempt, claim.crashes, claim.job.payload) == (job.attempt, job.crashes, job.payload)
            self.claimed.append(running_attempt(claim))


def _order(job: Job) -> tuple[int, int]:
    assert job.place is not None
    return -job.priority, job.place.turn
