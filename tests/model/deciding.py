"""Rules of those who decide: jobs are cancelled and run again, dead letters replayed and discarded."""

import msgspec
import pytest
from hypothesis import strategies as st

from accepted.errors import Conflict
from accepted.services import manual_retry
from accepted.services.jobs import completion
from accepted.services.manual_retry import EditedPayload, LetterCounts
from accepted.storage.dead_letters import LetterFilter
from tests.model.contract import AGAIN, FINISHED, WAITING
from tests.model.model import Job
from tests.model.rows import UNIT
from tests.model.stage import TENANT, Stage, pick, picks, step

filters = st.sampled_from(["all", "class", "one"])


class Deciding(Stage):
    @step(when=lambda self: self.seldom and self.having(*WAITING), number=picks)
    async def cancel_a_waiting_job(self, number) -> None:
        job = pick(self.having(*WAITING), number)
        assert await self.cancel(job) == "cancelled"

    @step(when=lambda self: self.having("running"), number=picks)
    async def cancel_a_running_job(self, number) -> None:
        """It goes on running, and its worker is told: how it ends is decided by its outcome."""
        job = pick(self.having("running"), number)
        assert await self.cancel(job) == "running"

    @step(when=lambda self: self.having(*AGAIN), asks_again=True, number=picks)
    async def retry(self, number) -> None:
        job = pick(self.having(*AGAIN), number)
        again = await manual_retry.retry(self.ledger.engine, await self.ledger.job(job.id))
        job.again(self.now, self.now)
        assert again is not None
        assert (again.status, again.attempt) == ("queued", job.attempt)

    @step(when=lambda self: self.seldom and self.having(*FINISHED), number=picks)
    async def ask_in_vain(self, number) -> None:
        """Nothing happens to what has finished: no cancel, no replay of what is no dead letter, and no retry of what
        has succeeded or was read before its last attempt."""
        job = pick(self.having(*FINISHED), number)
        engine, read = self.ledger.engine, await self.ledger.job(job.id)
        with pytest.raises(Conflict):
            await completion.cancel(engine, self.ledger.broker, read)
        if job.letter is None:
            assert await manual_retry.replay(engine, read, EditedPayload("666", "me")) is None
        if job.status in AGAIN:
            read = msgspec.structs.replace(read, attempt=read.attempt - 1)
        assert await manual_retry.retry(engine, read) is None
        assert await manual_retry.replay(engine, read, EditedPayload("666", "me")) is None

    @step(when=Stage.letters, asks_again=True, number=picks, payload=st.none() | st.integers(10, 19))
    async def replay_one(self, number, payload) -> None:
        """With the payload that it had, or another one."""
        job = pick(self.letters(), number)
        edited = None if payload is None else EditedPayload(str(payload), "me")
        again = await manual_retry.replay(self.ledger.engine, await self.ledger.job(job.id), edited)
        job.again(self.now, self.now)
        if edited is not None:
            job.edit(edited.payload)
        assert again is not None
        assert (again.status, again.payload) == ("queued", job.payload)

    @step(when=Stage.letters, asks_again=True, which=filters, number=picks, every=st.sampled_from([1, 2, 0]))
    async def replay(self, which, number, every) -> None:
        """All that match: the first at once, and then one `every` so many units."""
        wanted, chosen = self._matching(which, number)
        spread = every * len(chosen) * UNIT
        assert await manual_retry.replay_letters(self.ledger.engine, TENANT, wanted, spread) == LetterCounts(
            *[len(chosen)] * 2
        )
        for place, job in enumerate(sorted(chosen, key=lambda job: job.id)):
            job.again(self.now + place * every, self.now)

    @step(when=Stage.letters, which=filters, number=picks)
    async def discard(self, which, number) -> None:
        """The jobs keep their status."""
        wanted, chosen = self._matching(which, number)
        assert await manual_retry.discard_letters(self.ledger.engine, TENANT, wanted) == LetterCounts(
            *[len(chosen)] * 2
        )
        for job in chosen:
            job.letter = None

    def _matching(self, which: str, number: int) -> tuple[LetterFilter, list[Job]]:
        letters = self.letters()
        one = pick(letters, number)
        if which == "one":
            return LetterFilter(ids=[one.id]), [one]
        if which == "class":
            return LetterFilter(class_=one.letter), [job for job in letters if job.letter == one.letter]
        return LetterFilter(), letters
