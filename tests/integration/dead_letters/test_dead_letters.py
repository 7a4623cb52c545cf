"""Replaying and discarding many dead letters: filters, pacing, batches, and none lost or done twice."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.failures import FailureClass
from accepted.errors import LedgerUnavailable
from accepted.services import manual_retry as service
from accepted.services.manual_retry import MAX_BATCH, LetterCounts
from accepted.storage import dead_letters
from accepted.storage.counts import letter_groups
from accepted.storage.db.engine import transaction
from accepted.storage.dead_letters import Letter, LetterFilter
from accepted.storage.jobs import manual_retry
from tests.support.ledger.dead_letters import fail, run_again
from tests.support.ledger.sql import do, rows

ALL = LetterFilter()


async def letters(engine: AsyncEngine, wanted: LetterFilter = ALL, tenant: str = "t", **how: Any) -> list[Letter]:
    async with transaction(engine) as conn:
        return list(await dead_letters.page(conn, tenant, wanted, how.get("after"), how.get("most", 200)))


async def left(engine: AsyncEngine) -> set[UUID]:
    return {row["job_id"] for row in await rows(engine, "SELECT job_id FROM dead_letters")}


async def test_filters(engine: AsyncEngine) -> None:
    (one,) = await fail(engine, queue="a", type="x")
    (two,) = await fail(engine, queue="b", type="x", kind=FailureClass.AUTH)
    (three,) = await fail(engine, queue="b", type="webhook.deliver")
    (foreign,) = await fail(engine, tenant="other")
    (first,) = await rows(engine, "SELECT failed_at FROM dead_letters WHERE job_id = :id", id=two)
    for wanted, expected in (
        (LetterFilter(), {one, two}),
        (LetterFilter(queue="a"), {one}),
        (LetterFilter(queue="b"), {two, three}),
        (LetterFilter(type="x"), {one, two}),
        (LetterFilter(type="webhook.deliver"), {three}),
        (LetterFilter(class_="auth"), {two}),
        (LetterFilter(before=first["failed_at"]), {one}),
        (LetterFilter(ids=[two, three, foreign]), {two, three}),
        (LetterFilter(ids=[]), set()),
        (LetterFilter(queue="a", class_="auth"), set()),
    ):
        assert {letter.job_id for letter in await letters(engine, wanted)} == expected, wanted
        assert await service.count_letters(engine, "t", wanted) == LetterCounts(len(expected), 0)
    assert {letter.job_id for letter in await letters(engine, tenant="other")} == {foreign}


async def test_pages_go_from_the_newest_failure_on(engine: AsyncEngine) -> None:
    await fail(engine, 5)  # all in one transaction: one time
    (newest,) = await fail(engine)
    found, after = [], None
    while page := await letters(engine, after=after, most=2):
        found += page
        after = (page[-1].failed_at, page[-1].job_id)
    assert len({letter.job_id for letter in found}) == len(found) == 6
    assert found[0].job_id == newest
    assert found == sorted(found, key=lambda letter: (-letter.failed_at.timestamp(), letter.job_id))


async def test_groups_put_aside_what_differs_from_job_to_job(engine: AsyncEngine) -> None:
    for number in range(3):
        ids = await fail(
            engine, message=f"order {number} of 0198f1c2-7d5e-7cc3-98c4-dc0c0c07398{number} at 0xAf{number}"
        )
    await fail(engine, message="order failed")
    await fail(engine, message="order failed", kind=FailureClass.AUTH)
    await fail(engine, tenant="other")
    async with transaction(engine) as conn:
        groups = await letter_groups.groups(conn, "t", ALL, 10)
    found = [(group.class_, group.message, group.count) for group in groups]
    assert found[0] == ("invalid", "order … of … at …", 3)
    assert sorted(found[1:]) == [
        ("auth", "order failed", 1), ("invalid", "order failed", 1),
    ]  # fmt: skip
    assert groups[0].example == ids[0]
    assert groups[0].first_at < groups[0].last_at


async def test_groups_keep_statuses_apart(engine: AsyncEngine) -> None:
    said = [
        "the target answered 410", "the target answered 422", "HTTP 400: order 17", "http/1.1 400", "status code: 503",
    ]  # fmt: skip
    for message in said:
        await fail(engine, message=message)
    await fail(engine, message="status 1234 of 404, exit status 7, answered 4100 of 4")
    async with transaction(engine) as conn:
        groups = await letter_groups.groups(conn, "t", ALL, 10)
    assert {group.message for group in groups} == {
        "the target answered 410", "the target answered 422", "HTTP 400: order …", "http/….… 400",
        "status code: 503",        "status … of …, exit status …, answered … of …",
    }  # fmt: skip


async def test_a_paced_replay_is_spread_evenly_and_begins_now(engine: AsyncEngine) -> None:
    ids = await fail(engine, 10)
    assert await service.replay_letters(engine, "t", ALL, 100) == LetterCounts(10, 10)
    waiting = await rows(engine, """SELECT o.*, j.status, j.run_at, EXTRACT(epoch FROM due_at - now()) AS wait
                                    FROM outbox o JOIN jobs j ON j.id = o.job_id ORDER BY due_at""")  # fmt: skip
    assert [row["job_id"] for row in waiting] == ids
    assert [row["status"] for row in waiting] == ["queued"] + ["scheduled"] * 9
    first = waiting[0]["due_at"]
    assert [(row["due_at"] - first).total_seconds() for row in waiting] == [10.0 * n for n in range(10)]
    assert -5 < waiting[0]["wait"] <= 0
    assert all(row["run_at"] == row["due_at"] and not row["published"] for row in waiting)
    assert await left(engine) == set()


async def test_pacing_goes_on_over_the_batches(engine: AsyncEngine) -> None:
    count = MAX_BATCH + 20
    await fail(engine, count)
    assert await service.replay_letters(engine, "t", ALL, count) == LetterCounts(count, count)
    due = [row["due_at"] for row in await rows(engine, "SELECT due_at FROM outbox ORDER BY job_id")]
    assert [(at - due[0]).total_seconds() for at in due] == [float(n) for n in range(count)]


async def test_replays_at_once_replay_each_letter_once(engine: AsyncEngine) -> None:
    count = 2 * MAX_BATCH + 100
    await fail(engine, count)
    done = await asyncio.gather(*(service.replay_letters(engine, "t", ALL, 0) for _ in range(4)))
    assert sum(each.done for each in done) == count
    assert len(await rows(engine, "SELECT * FROM outbox")) == count
    assert await left(engine) == set()
    again = await rows(engine, "SELECT DISTINCT status, attempt, retried_after FROM jobs")
    assert [tuple(row.values()) for row in again] == [("queued", 1, [1])]


async def test_a_replay_that_dies_half_way_leaves_the_rest_as_dead_letters(engine: AsyncEngine) -> None:
    ids = await fail(engine, MAX_BATCH + 50)
    await do(engine, f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN IF NEW.job_id = '{ids[MAX_BATCH + 10]}' THEN RAISE 'the disk is full' USING ERRCODE = '53100'; END IF;
        RETURN NEW; END$$""")  # fmt: skip
    await do(engine, "CREATE TRIGGER refuse BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION refuse()")
    with pytest.raises(LedgerUnavailable):
        await service.replay_letters(engine, "t", ALL, 0)
    assert await left(engine) == set(ids[MAX_BATCH:])
    assert {row["job_id"] for row in await rows(engine, "SELECT job_id FROM outbox")} == set(ids[:MAX_BATCH])
    failed = {row["id"] for row in await rows(engine, "SELECT id FROM jobs WHERE status = 'failed'")}
    assert failed == set(ids[MAX_BATCH:])
    await do(engine, "DROP TRIGGER refuse ON outbox")
    assert await service.replay_letters(engine, "t", ALL, 0) == LetterCounts(50, 50)


async def test_what_fails_again_meanwhile_is_not_replayed_again(engine: AsyncEngine) -> None:
    """Otherwise a replay of jobs that fail at once would never end."""
    await fail(engine, 3)
    async with transaction(engine) as conn:
        _, start = await dead_letters.count(conn, "t", ALL)
    assert (await service.replay_letters(engine, "t", ALL, 0)).done == 3
    assert await run_again(engine) == 3
    assert len(await left(engine)) == 3
    async with transaction(engine) as conn:
        assert await manual_retry.choose_letters(conn, "t", ALL, start, 0, 0.0, MAX_BATCH) == []
        assert await dead_letters.discard(conn, "t", ALL, start, MAX_BATCH) == 0
        await conn.commit()
    assert (await service.replay_letters(engine, "t", ALL, 0)).done == 3


async def test_a_discarded_job_keeps_its_status_and_is_not_replayed(engine: AsyncEngine) -> None:
    ids = await fail(engine, MAX_BATCH + 10)
    others = await fail(engine, 2, queue="others")
    done = await asyncio.gather(*(service.discard_letters(engine, "t", LetterFilter(queue="q")) for _ in range(3)))
    assert sum(each.done for each in done) == len(ids)
    assert await left(engine) == set(others)
    assert {row["status"] for row in await rows(engine, "SELECT status FROM jobs")} == {"failed"}
    assert await service.replay_letters(engine, "t", LetterFilter(ids=ids), 0) == LetterCounts(0, 0)
    assert await rows(engine, "SELECT * FROM outbox") == []


async def test_replay_and_discard_at_once_do_one_of_them(engine: AsyncEngine) -> None:
    await fail(engine, 400)
    replayed, discarded = await asyncio.gather(
        service.replay_letters(engine, "t", ALL, 0), service.discard_letters(engine, "t", ALL)
    )
    assert replayed.done + discarded.done == 400
    assert len(await rows(engine, "SELECT * FROM outbox")) == replayed.done
    assert len(await rows(engine, "SELECT * FROM jobs WHERE status = 'failed'")) == discarded.done
    assert await left(engine) == set()
