"""Workers that do nothing but claim and end jobs, as fast as they can and at the same time, on either broker."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from uuid import UUID

from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.job import FINISHED
from accepted.domain.transitions import Transition
from accepted.errors import LedgerUnavailable
from accepted.services.jobs.claiming import Claimer, Delivery
from accepted.services.jobs.completion import settle
from accepted.services.jobs.submission import Submission, Submissions
from accepted_worker.scheduler import base
from accepted_worker.scheduler.ending import Expiry
from accepted_worker.scheduler.relay import Relay
from tests.support.ledger.brokers import BrokerHarness, running_attempt
from tests.support.ledger.jobs import a_job
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import rows
from tests.support.waiting import until

PATIENCE = 60.0
UNFINISHED = "SELECT id, status, blockers, attempt FROM jobs WHERE finished_at IS NULL"
OVERLAPS = """
SELECT count(*) FROM attempts a JOIN jobs j ON j.id = a.job_id, attempts b JOIN jobs k ON k.id = b.job_id
WHERE (j.tenant, j.queue, j.ordering_key) = (k.tenant, k.queue, k.ordering_key) AND j.id < k.id
  AND tstzrange(a.started_at, a.finished_at) && tstzrange(b.started_at, b.finished_at)
"""

T = TypeVar("T")
Outcome = Callable[[Delivery], Transition]


def success(delivery: Delivery) -> Transition:
    return transitions.succeeded(running_attempt(delivery), "{}")


def anything(delivery: Delivery) -> Transition:
    """Success, failure for good, a crash or a hand-back."""
    one = running_attempt(delivery)
    first_crash = transitions.crashed(one, 0.0) if not one.crashes else transitions.succeeded(one, "{}")
    ended = [transitions.succeeded(one, "{}"), transitions.failed(one, FailureClass.INVALID, "no", 0.0)]
    return random.choice([*ended, first_crash, transitions.handed_back(one)])


@asynccontextmanager
async def claiming_workers(
    harness: BrokerHarness, outcome: Outcome, count: int = 3, most: int = 4
) -> AsyncIterator[list[UUID]]:
    """`count` workers and a scheduler; yields the ids in the order of the claims, which grows."""
    order: list[UUID] = []
    subscriptions = [harness.subscribe(most, "q") for _ in range(count)]
    working = [asyncio.create_task(_work(harness, one, outcome, order, most)) for one in subscriptions]
    loops = [
        Relay(harness.engine, harness.broker, PollConnection(harness.engine)),
        Expiry(harness.engine, harness.broker, PollConnection(harness.engine)),
    ]
    scheduling = asyncio.create_task(base.run(loops))
    try:
        yield order
    finally:
        for one in subscriptions:
            await one.stop()
        scheduling.cancel()
        await asyncio.wait([scheduling])
        errors = [error for error in await asyncio.gather(*working, return_exceptions=True) if error is not None]
        if errors:
            raise BaseExceptionGroup("workers that came to grief", errors)


async def _work(harness: BrokerHarness, subscription: Claimer, outcome: Outcome, order: list[UUID], most: int) -> None:
    while deliveries := await until_heard(lambda: subscription.claim(most)):
        order.extend(each.claim.job.id for each in deliveries)
        await asyncio.sleep(0)
        await until_heard(lambda: settle(harness.engine, harness.broker, [outcome(each) for each in deliveries]))
        await subscription.ack(deliveries)


async def until_heard(work: Callable[[], Awaitable[T]]) -> T:
    """On a slow machine a full pool is an outage of two seconds: as a worker does, try again."""
    while True:
        with suppress(LedgerUnavailable):
            return await work()


async def all_finished(harness: BrokerHarness) -> None:
    """Wait for the end of every job; what is left is in the failure."""
    left: list[Any] = []

    async def none_left() -> bool:
        left[:] = await rows(harness.engine, UNFINISHED)
        return not left

    await until(none_left, PATIENCE, lambda: f"the end of {[dict(row) for row in left[:20]]}", interval=0.1)
    statuses = {row["status"] for row in await rows(harness.engine, "SELECT DISTINCT status FROM jobs")}
    assert statuses <= FINISHED
    assert await rows(harness.engine, "SELECT * FROM outbox") == []


@asynccontextmanager
async def submissions_of(harness: BrokerHarness) -> AsyncIterator[Submissions]:
    submissions = Submissions(harness.engine, harness.broker, 60)
    yield submissions
    await submissions.close()


async def accept(submissions: Submissions, key: str | None = None, **fields: Any) -> UUID:
    fingerprint = None if key is None else b"1"
    return (await submissions.accept(Submission(a_job(**fields), key, fingerprint))).job.id
