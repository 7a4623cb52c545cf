"""`ordering_key`: the jobs of a line run one at a time, in the order accepted, whatever their outcomes."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.ids import BEFORE_ALL
from accepted.errors import Conflict
from accepted.services.jobs.completion import cancel, expire
from accepted.services.manual_retry import retry
from accepted.storage import pruning
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import dependencies
from tests.support.ledger.brokers import BrokerHarness
from tests.support.ledger.dead_letters import read
from tests.support.ledger.jobs import apply, claim, running_attempt, the_job
from tests.support.ledger.sql import do, rows
from tests.support.service.claiming_workers import (
    OVERLAPS,
    accept,
    all_finished,
    anything,
    claiming_workers,
    submissions_of,
    success,
)

LINE = {"ordering_key": "a"}
EXPIRED_BETWEEN = """
WITH between AS (
    INSERT INTO jobs (id, tenant, type, queue, status, priority, max_attempts, payload, run_at, finished_at,
                      ordering_key, has_dependents)
    SELECT gen_random_uuid(), tenant, type, queue, 'expired', priority, 1, '{}', now(), now(), ordering_key, true
    FROM jobs, generate_series(1, :count) WHERE id = :first RETURNING id
), gone AS (
    DELETE FROM dependencies WHERE needs = :first
)
INSERT INTO dependencies (needs, job_id, on_success)
SELECT lag(id, 1, CAST(:first AS uuid)) OVER (ORDER BY place), id, false
FROM (SELECT 1 AS place, id FROM between UNION ALL SELECT 2, CAST(:last AS uuid)) AS behind
"""


@pytest.fixture
def ledger(engine: AsyncEngine, broker: PostgresBroker) -> BrokerHarness:
    return BrokerHarness("postgres", engine, broker)


async def statuses(engine: AsyncEngine, *ids: UUID) -> list[str]:
    return [(await the_job(engine, id))["status"] for id in ids]


async def put(ledger: BrokerHarness, count: int, **fields: object) -> list[UUID]:
    async with submissions_of(ledger) as submissions:
        return [await accept(submissions, **(LINE | fields)) for _ in range(count)]


async def end_next(engine: AsyncEngine, kind: str = "succeeded") -> UUID:
    """Claim what is ready, which must be one job, and end it."""
    (claimed,) = await claim(engine)
    one = running_attempt(claimed)
    ended = {
        "succeeded": transitions.succeeded(one, "1"),
        "failed": transitions.failed(one, FailureClass.INVALID, "no", 0.0),
    }
    assert await apply(engine, ended[kind]) == [True]
    return claimed.job.id


@pytest.mark.parametrize("kind", ["succeeded", "failed"])
async def test_the_next_waits_for_the_end_however_it_is(ledger: BrokerHarness, engine: AsyncEngine, kind: str) -> None:
    ids = await put(ledger, 3)
    assert await statuses(engine, *ids) == ["queued", "blocked", "blocked"]
    assert [await end_next(engine, kind) for _ in ids] == ids
    assert await rows(engine, "SELECT * FROM dependencies") == []


async def test_a_retry_keeps_its_place(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    first, second = await put(ledger, 2)
    (claimed,) = await claim(engine)
    await apply(engine, transitions.failed(running_attempt(claimed), FailureClass.TRANSIENT, "x", 0.0))
    assert await statuses(engine, first, second) == ["retrying", "blocked"]
    await do(engine, "UPDATE outbox SET published = true, due_at = now() WHERE NOT on_hold")
    assert [await end_next(engine) for _ in range(2)] == [first, second]


async def test_a_delay_of_the_first_holds_up_the_line_and_one_of_the_next_is_kept(
    ledger: BrokerHarness, engine: AsyncEngine
) -> None:
    (first,) = await put(ledger, 1, delay=60.0)
    (second,) = await put(ledger, 1, delay=120.0)
    assert await statuses(engine, first, second) == ["scheduled", "blocked"]
    await cancel(engine, ledger.broker, await read(engine, first))
    assert await statuses(engine, second) == ["scheduled"]
    (row,) = await rows(engine, "SELECT o.*, o.due_at = j.run_at AS kept FROM outbox o JOIN jobs j ON j.id = o.job_id")
    assert (row["on_hold"], row["published"], row["kept"]) == (False, False, True)


async def test_lines_are_apart_by_tenant_queue_and_key(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    async with submissions_of(ledger) as submissions:
        for other in ({}, {"tenant": "u"}, {"queue": "r"}, {"ordering_key": "b"}):
            await accept(submissions, **(LINE | other))
    assert {row["status"] for row in await rows(engine, "SELECT status FROM jobs")} == {"queued"}


async def test_a_batch_keeps_its_order_and_a_replay_has_no_place(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    async with submissions_of(ledger) as submissions:
        known = await accept(submissions, key="k", **LINE)
        calls = [accept(submissions, key="k" if n in (3, 7) else None, **LINE) for n in range(10)]
        ids = await asyncio.gather(*calls)
        assert ids[3] == ids[7] == known
    expected = [known, *(id for id in ids if id != known)]
    assert [await end_next(engine) for _ in expected] == expected
    assert await rows(engine, "SELECT * FROM jobs WHERE finished_at IS NULL") == []


async def test_one_cancelled_in_the_middle_passes_the_turn_on_when_it_is_its_turn(
    ledger: BrokerHarness, engine: AsyncEngine
) -> None:
    first, second, third, fourth = await put(ledger, 4)
    for id in (third, second):
        await cancel(engine, ledger.broker, await read(engine, id))
    assert await statuses(engine, first, fourth) == ["queued", "blocked"], "the first has not ended"
    assert [await end_next(engine), await end_next(engine)] == [first, fourth]
    assert await rows(engine, "SELECT * FROM dependencies") == []


async def test_who_comes_after_a_cancelled_last_waits_for_those_before_it(
    ledger: BrokerHarness, engine: AsyncEngine
) -> None:
    first, second = await put(ledger, 2)
    await cancel(engine, ledger.broker, await read(engine, second))
    (third,) = await put(ledger, 1)
    assert await statuses(engine, first, third) == ["queued", "blocked"]
    assert [await end_next(engine), await end_next(engine)] == [first, third]


async def test_one_that_expires_passes_the_turn_on(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    (first,), (second,) = await put(ledger, 1), await put(ledger, 1, expires_at=past)
    (third,) = await put(ledger, 1)
    assert await expire(engine, ledger.broker, 10) == 1
    assert await statuses(engine, first, second, third) == ["queued", "expired", "blocked"]
    assert [await end_next(engine), await end_next(engine)] == [first, third]


async def test_a_retried_job_joins_its_line_at_the_end(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    first, second, third = await put(ledger, 3)
    assert await end_next(engine, "failed") == first
    again = await retry(engine, await read(engine, first))
    assert again is not None
    assert again.status == "blocked"
    await cancel(engine, ledger.broker, await read(engine, third))
    assert await retry(engine, await read(engine, third)) is not None
    await do(engine, "UPDATE outbox SET published = true WHERE NOT on_hold")
    assert [await end_next(engine) for _ in range(3)] == [second, first, third]
    assert await rows(engine, "SELECT * FROM dependencies") == []


async def test_one_cancelled_before_its_turn_gives_up_its_place_when_it_is_retried(
    ledger: BrokerHarness, engine: AsyncEngine
) -> None:
    first, second, third, fourth = await put(ledger, 4)
    for id in (second, fourth):
        await cancel(engine, ledger.broker, await read(engine, id))
    for id in (second, fourth):
        again = await retry(engine, await read(engine, id))
        assert again is not None
        assert again.status == "blocked"
    assert [await end_next(engine) for _ in range(4)] == [first, third, second, fourth]
    assert await rows(engine, "SELECT * FROM dependencies") == []


async def test_a_retry_in_an_empty_line_waits_for_nobody(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    (first,) = await put(ledger, 1)
    await end_next(engine, "failed")
    again = await retry(engine, await read(engine, first))
    assert again is not None
    assert again.status == "queued"
    (second,) = await put(ledger, 1)
    assert await statuses(engine, second) == ["blocked"]


async def test_thousands_that_were_cancelled_are_passed_at_once(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    first, last = await put(ledger, 1), []
    async with submissions_of(ledger) as submissions:
        await asyncio.gather(*(accept(submissions, **LINE) for _ in range(1500)))
        last = await asyncio.gather(accept(submissions, **LINE))
    await do(engine, "DELETE FROM outbox WHERE job_id NOT IN (:first, :last)", first=first[0], last=last[0])
    cancelled = "UPDATE jobs SET status = 'cancelled', finished_at = now() WHERE id NOT IN (:first, :last)"
    assert await do(engine, cancelled, first=first[0], last=last[0]) == 1500
    assert [await end_next(engine), await end_next(engine)] == [*first, *last]


@pytest.mark.parametrize("lines", [1, 3])
async def test_a_statement_passes_a_bounded_part_of_a_line_and_the_next_goes_on(
    ledger: BrokerHarness, engine: AsyncEngine, lines: int
) -> None:
    """Any number may have ended before their turn: one statement for all would miss its deadline again and again."""
    pairs = [await put(ledger, 2, ordering_key=str(n)) for n in range(lines)]
    for first, last in pairs:
        await do(engine, EXPIRED_BETWEEN, count=12_000 // lines, first=first, last=last)
    left, rounds, over = 12_000 + lines, 0, [first for first, _ in pairs]
    async with transaction(engine) as conn:
        while over:
            over = (await dependencies.release(conn, over, {}, published=True)).passed_by
            before, left = left, (await conn.execute(text("SELECT count(*) FROM dependencies"))).scalar_one()
            assert 0 < before - left <= dependencies.BATCH_SIZE
            rounds += 1
    assert (left, rounds) == (0, 3)
    for claimed in await claim(engine):
        assert await apply(engine, transitions.succeeded(running_attempt(claimed), "1")) == [True]
    assert await statuses(engine, *(last for _, last in pairs)) == ["queued"] * lines


async def test_a_line_is_forgotten_with_its_last_job_but_not_before_its_turn(
    ledger: BrokerHarness, engine: AsyncEngine
) -> None:
    first, second = await put(ledger, 2)
    await cancel(engine, ledger.broker, await read(engine, second))

    async def prune() -> int:
        async with transaction(engine) as conn:
            done = await pruning.prune_jobs(conn, 0, 0, datetime.now(UTC) + timedelta(hours=1), BEFORE_ALL, 100)
            await conn.commit()
        return done.deleted

    assert await prune() == 0, "the turn still has to pass along the second"
    (third,) = await put(ledger, 1)
    assert await statuses(engine, third) == ["blocked"], "the first has not ended"
    assert [await end_next(engine), await end_next(engine)] == [first, third]
    assert await prune() == 3
    assert await rows(engine, "SELECT * FROM ordering_keys") == await rows(engine, "SELECT * FROM dependencies") == []
    assert await statuses(engine, *(await put(ledger, 1))) == ["queued"]


async def test_many_lines_on_many_workers_each_in_its_order(harness: BrokerHarness) -> None:
    """Two API processes accept, three workers end the jobs with any outcome."""
    expected: dict[str, list[UUID]] = {f"key {n}": [] for n in range(12)}
    async with (
        submissions_of(harness) as one,
        submissions_of(harness) as two,
        claiming_workers(harness, anything) as order,
    ):

        async def fill(key: str) -> None:
            for _ in range(6):
                expected[key].append(await accept(random.choice([one, two]), ordering_key=key, max_attempts=50))

        await asyncio.gather(*map(fill, expected))
        await all_finished(harness)
    for ids in expected.values():
        mine = [id for id in order if id in ids]
        assert list(dict.fromkeys(mine)) == ids
        assert sorted(mine, key=ids.index) == mine, "the next began before its predecessor's last attempt"
    assert (await rows(harness.engine, OVERLAPS))[0]["count"] == 0
    assert await rows(harness.engine, "SELECT * FROM dependencies") == []


async def test_adding_ending_and_cancelling_at_once_lose_nobody(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    """Three lines that all contend for: jobs are added, end, are cancelled in the middle and retried, in any order."""
    async with (
        submissions_of(ledger) as one,
        submissions_of(ledger) as two,
        claiming_workers(ledger, success, count=4, most=2),
    ):

        async def add_and_cancel(n: int) -> None:
            for _ in range(40):
                id = await accept(random.choice([one, two]), ordering_key=str(n % 3))
                if random.random() < 0.4:
                    try:
                        await cancel(engine, ledger.broker, await read(engine, id))
                    except Conflict:
                        continue
                    if random.random() < 0.5:
                        await retry(engine, await read(engine, id))

        await asyncio.gather(*(add_and_cancel(n) for n in range(9)))
        await all_finished(ledger)
    assert (await rows(engine, OVERLAPS))[0]["count"] == 0
    assert await rows(engine, "SELECT * FROM dependencies") == []
