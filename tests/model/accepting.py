"""Rules of submission: jobs are submitted, with keys and without, once and again."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import strategies as st

from accepted.domain.job import DEFAULT_PRIORITY, END_EVENTS
from accepted.domain.request_headers import fingerprint
from accepted.errors import KeyReused
from accepted.services.jobs.submission import Receipt
from tests.model.ledger import KEYS_TTL
from tests.model.model import Job, Place
from tests.model.rows import UNIT
from tests.model.stage import QUEUES, Key, Stage, a_submission, pick, picks, step

bodies = st.fixed_dictionaries(
    {
        "queue": st.sampled_from(QUEUES),
        "delay": st.sampled_from([0, 0, 0, 1, 2]),
        "expires": st.sampled_from([None] * 7 + [1.5, 0.5, -0.5]),
        "most": st.sampled_from([3, 5, 2, 1]),
        "waits": st.lists(st.sampled_from([1, 2, 0]), min_size=1, max_size=3),
        "tells": st.booleans(),
        "payload": st.integers(0, 3),
    }
)
"""What a client may ask for. Delays and waits are whole units, and deadlines lie half-way between them."""

ROOM = 8
"""Jobs, from which on no more are submitted: it is their later life that is of interest."""


class Accepting(Stage):
    @step(first=True, asked=st.lists(bodies, min_size=2, max_size=5))
    async def begin(self, asked: list[dict[str, Any]]) -> None:
        for body in asked:
            self._accepted(body, await self._submit(body, None))

    @step(when=lambda self: len(self.jobs) < ROOM, body=bodies)
    async def submit(self, body: dict[str, Any]) -> None:
        self._accepted(body, await self._submit(body, None))

    @step(when=lambda self: len(self.jobs) < ROOM, body=bodies, copies=st.integers(1, 3))
    async def submit_with_a_key(self, body: dict[str, Any], copies: int) -> None:
        """Any number of concurrent submissions of one key make one job, and all get it."""
        key = f"k{len(self.keys)}"
        receipts = await asyncio.gather(*(self._submit(body, key) for _ in range(copies)))
        (made,) = [receipt for receipt in receipts if not receipt.replayed]
        assert {receipt.job.id for receipt in receipts} == {made.job.id}
        self._remember(key, body, made)

    @step(when=lambda self: self.seldom and self._good_keys(), number=picks)
    async def submit_again(self, number: int) -> None:
        """The same body finds the job as it is now, and another one is refused."""
        name = pick(self._good_keys(), number)
        known = self.keys[name]
        receipt = await self._submit(known.body, name)
        job = self.jobs[known.job]
        assert receipt.replayed
        assert (receipt.job.id, receipt.job.status, receipt.job.attempt) == (job.id, job.status, job.attempt)
        with pytest.raises(KeyReused):
            await self._submit(known.body | {"payload": known.body["payload"] + 1}, name)

    @step(when=lambda self: self._old_keys(), number=picks, body=bodies)
    async def submit_with_a_forgotten_key(self, number: int, body: dict[str, Any]) -> None:
        """A key past its time is a new one."""
        name = pick(self._old_keys(), number)
        receipt = await self._submit(body, name)
        assert not receipt.replayed
        self._remember(name, body, receipt)

    def _good_keys(self) -> list[str]:
        return [name for name, key in self.keys.items() if key.expires > self.now]

    def _old_keys(self) -> list[str]:
        return [name for name, key in self.keys.items() if key.expires <= self.now]

    async def _submit(self, body: dict[str, Any], key: str | None) -> Receipt:
        policy = {"max_attempts": body["most"], "schedule": [wait * UNIT for wait in body["waits"]], "jitter": 0.0}
        until = None if body["expires"] is None else datetime.now(UTC) + timedelta(seconds=body["expires"] * UNIT)
        asked: dict[str, Any] = {
            "queue": body["queue"], "max_attempts": body["most"],
            "retry": json.dumps(policy), "payload": str(body["payload"]), "expires_at": until,
            "delay": body["delay"] * UNIT or None,
        }  # fmt: skip
        if body["tells"]:
            asked |= {"callback_url": "https://example.com/", "callback_events": END_EVENTS}
        print_of_it = None if key is None else fingerprint("POST", "/jobs", body)
        return await self.ledger.submissions.accept(a_submission(asked, key, print_of_it, self.new_id()))

    def _accepted(self, body: dict[str, Any], receipt: Receipt) -> None:
        due = self.now + body["delay"]
        job = Job(
            id=receipt.job.id, queue=body["queue"], priority=DEFAULT_PRIORITY, most=body["most"],
            waits=tuple(body["waits"]), payload=str(body["payload"]), tells=body["tells"], run_at=due,
            expires=None if body["expires"] is None else self.now + body["expires"],
            status="scheduled", place=Place(due, False), max_attempts=body["most"],
        )  # fmt: skip
        if due <= self.now:
            self.publish(job, self.new_turn())
        self.jobs[job.id] = job
        assert receipt.job.status == job.status

    def _remember(self, name: str, body: dict[str, Any], receipt: Receipt) -> None:
        self._accepted(body, receipt)
        self.keys[name] = Key(body, receipt.job.id, self.now + KEYS_TTL / UNIT)
