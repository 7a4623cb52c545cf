"""Rules of time and of the scheduler: time passes, workers fall silent, and the loops do what is then to be done."""

from uuid import UUID

from hypothesis import strategies as st

from tests.model.model import Job, Place
from tests.model.rows import UNIT
from tests.model.stage import Stage, pick, picks, step


class Scheduling(Stage):
    @step(units=st.integers(1, 2))
    async def pass_time(self, units) -> None:
        """Those who live go on saying so."""
        await self.ledger.pass_time(units)
        self.now += units
        for worker in sorted(self.beats.keys() - self.silent):
            await self.beat(worker)

    @step(when=lambda self: self._busy() - self.silent, number=picks)
    async def fall_silent(self, number) -> None:
        """Frozen, cut off or dead: its leases are good for a while."""
        self.silent.add(pick(sorted(self._busy() - self.silent), number))

    @step(when=lambda self: self._busy(), number=picks)
    async def vanish(self, number) -> None:
        """It says goodbye, and leaves behind what it held; every other time that is noticed at once."""
        worker = pick(sorted(self._busy()), number)
        await self.ledger.retire(worker)
        del self.beats[worker]
        self.silent.discard(worker)
        if number % 2:
            await self._rescue()

    @step(when=lambda self: self.silent, number=picks)
    async def come_back(self, number) -> None:
        """Too late for its leases, perhaps: that is for a rescuer to say."""
        await self.beat(pick(sorted(self.silent), number))

    @step(when=lambda self: self.abandoned())
    async def rescue(self) -> None:
        await self._rescue()

    @step(when=lambda self: self._due())
    async def relay(self) -> None:
        due, turn = self._due(), self.new_turn()
        assert await self.ledger.relay() >= len(due)  # and webhooks that were lost
        for job in due:
            self.publish(job, turn)

    @step(when=lambda self: self._due())
    async def relay_dies(self) -> None:
        """It has published what is due and not noted it: another relay will, once its hold is over."""
        due, turn = self._due(), self.new_turn()
        await self.ledger.relay_dies(UNIT)
        for job in due:
            self.publish(job, turn)
            job.place = Place(self.now + 1, False)

    @step(when=lambda self: self._late())
    async def expire(self) -> None:
        late = self._late()
        assert await self.ledger.expire() == len(late)
        for job in late:
            job.expire()

    @step(when=lambda self: self._idle())
    async def find_nothing_to_do(self) -> None:
        """The loops do nothing but what is due; and nothing is ever lost where the ledger is the broker."""
        assert await self.ledger.rescue() == 0
        assert await self.ledger.expire() == 0
        assert await self.ledger.reconcile() == 0
        await self.ledger.relay()  # which may find webhooks

    @step(when=lambda self: self._published_long_ago())
    async def lose_every_message(self) -> None:
        """Where the broker can lose them: what was published a while ago comes due again."""
        lost = self._published_long_ago()
        assert await self.ledger.restore() >= len(lost)
        for job in lost:
            job.place = Place(self.now, False)

    async def _rescue(self) -> None:
        lost = self.abandoned()
        assert await self.ledger.rescue() == len(lost)
        for job in lost:
            job.crash(self.now)

    def _busy(self) -> set[UUID]:
        """The workers that hold something, but for those that are gone."""
        return {job.lease.worker for job in self.having("running") if job.lease} & self.beats.keys()

    def _idle(self) -> bool:
        return self.seldom and not (self._due() or self._late() or self.abandoned())

    def _late(self) -> list[Job]:
        return [job for job in self._waiting() if job.late(self.now)]

    def _due(self) -> list[Job]:
        return [job for job in self._waiting() if job.place and not job.place.published and job.place.due <= self.now]

    def _published_long_ago(self) -> list[Job]:
        return [job for job in self._waiting() if job.place and job.place.published and job.place.due < self.now]

    def _waiting(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.waits_now]
