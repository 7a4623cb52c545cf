"""The counts of dead letters by error: exact at each moment, whether a scheduler has added them up or not."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.failures import FailureClass
from accepted.services import manual_retry as service
from accepted.storage import pruning
from accepted.storage.counts import letter_groups
from accepted.storage.counts.letter_groups import LetterGroup
from accepted.storage.db.engine import transaction
from accepted.storage.dead_letters import LetterFilter
from accepted_worker.scheduler import housekeeping
from accepted_worker.scheduler.housekeeping import LetterCounter
from tests.support.ledger.dead_letters import fail, run_again
from tests.support.ledger.sql import do, rows

ALL = LetterFilter()


async def groups(
    engine: AsyncEngine, wanted: LetterFilter = ALL, limit: int = 10, tenant: str = "t"
) -> list[LetterGroup]:
    async with transaction(engine) as conn:
        return list(await letter_groups.groups(conn, tenant, wanted, limit))


async def sizes(engine: AsyncEngine, wanted: LetterFilter = ALL, limit: int = 10) -> list[tuple[str, int]]:
    return [(group.message, group.count) for group in await groups(engine, wanted, limit)]


async def check(engine: AsyncEngine) -> None:
    """The groups are those of the letters, counted one by one."""
    counted = await rows(engine, """
        SELECT type, queue, class, count(*) AS count, min(failed_at) AS first_at, max(failed_at) AS last_at,
               (array_agg(job_id ORDER BY failed_at DESC, job_id))[1] AS example
        FROM dead_letters WHERE tenant = 't' GROUP BY type, queue, class, group_key
    """)  # fmt: skip
    found = {(g.type, g.queue, g.class_, g.count, g.first_at, g.last_at, g.example) for g in await groups(engine)}
    assert found == {tuple(row.values()) for row in counted}


async def add_up(engine: AsyncEngine) -> None:
    await LetterCounter(engine).run_once()
    assert await rows(engine, "SELECT 1 FROM dead_letter_moves") == []


@pytest.mark.parametrize("added_up", [True, False])
async def test_whatever_brings_or_takes_a_letter_is_counted(engine: AsyncEngine, added_up: bool) -> None:
    async def checked() -> None:
        await check(engine)
        if added_up:
            await add_up(engine)
            await check(engine)

    one = await fail(engine, 3, message="order 1 failed")
    await fail(engine, 2, message="no", kind=FailureClass.AUTH)
    await checked()
    assert await sizes(engine) == [("order … failed", 3), ("no", 2)]
    assert (await service.discard_letters(engine, "t", LetterFilter(ids=one[2:]))).done == 1
    await checked()
    assert (await service.replay_letters(engine, "t", LetterFilter(class_="auth"), 0)).done == 2
    await checked()
    assert await run_again(engine, FailureClass.NOT_FOUND) == 2
    await checked()
    assert await sizes(engine) == [("again", 2), ("order … failed", 2)]
    await do(engine, "UPDATE jobs SET finished_at = now() - interval '9 days' WHERE id = ANY(:ids)", ids=one)
    async with transaction(engine) as conn:
        await do(engine, "UPDATE dead_letters SET alerted_at = now()")
        deleted = await pruning._DELETE.count(conn, ids=one)
        await conn.commit()
    assert deleted == 3
    await checked()
    assert await sizes(engine) == [("again", 2)]


async def test_the_largest_groups_are_those_with_what_was_not_added_up(engine: AsyncEngine) -> None:
    for message, letters in (("a", 5), ("b", 4), ("c", 3), ("d", 2)):
        await fail(engine, letters, message=message)
    await add_up(engine)
    await fail(engine, 4, message="d")
    assert await sizes(engine, limit=1) == [("d", 6)]
    ids = [row["job_id"] for row in await rows(engine, "SELECT job_id FROM dead_letters WHERE message IN ('a', 'd')")]
    await service.discard_letters(engine, "t", LetterFilter(ids=ids))
    assert await sizes(engine, limit=1) == [("b", 4)]
    assert await sizes(engine, limit=2) == [("b", 4), ("c", 3)]


async def test_filters_choose_groups_and_parts_of_groups(engine: AsyncEngine) -> None:
    first = await fail(engine, 2, message="a")
    before = (await rows(engine, "SELECT clock_timestamp() AS now"))[0]["now"]
    last = await fail(engine, 1, message="a")
    await fail(engine, 1, message="a", queue="other")
    await fail(engine, 1, message="a", kind=FailureClass.AUTH)
    await fail(engine, 1, message="a", type="webhook.deliver")
    await fail(engine, 7, message="a", tenant="another")
    assert [group.count for group in await groups(engine)] == [3, 1, 1], "no deliveries"
    for wanted, counts in (
        (LetterFilter(queue="other"), [1]),
        (LetterFilter(class_="auth"), [1]),
        (LetterFilter(type="webhook.deliver"), [1]),
        (LetterFilter(queue="q"), [3, 1, 1]),
        (LetterFilter(before=before), [2]),
        (LetterFilter(before=datetime(2000, 1, 1, tzinfo=UTC)), []),
        (LetterFilter(ids=[first[0], last[0]]), [2]),
    ):
        for _ in range(2):
            assert [group.count for group in await groups(engine, wanted)] == counts, wanted
            await add_up(engine)
    (group,) = await groups(engine, LetterFilter(before=before))
    assert group.example == first[0]


async def test_schedulers_that_count_at_once_count_each_letter_once(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "MOVES_BATCH", 3)
    for message in "abcdef":
        await fail(engine, 5, message=message)
    await service.discard_letters(engine, "t", ALL)
    await fail(engine, 2, message="f")
    counters = [LetterCounter(engine) for _ in range(4)]
    while sum(await asyncio.gather(*(counter.run_once() for counter in counters))):
        assert await sizes(engine) == [("f", 2)]
    kept = await rows(engine, "SELECT letters FROM dead_letter_groups")
    assert [row["letters"] for row in kept if row["letters"]] == [2]
