"""Jobs that need others: released by success, ended by any other end, blocked again by a retry. None is forgotten."""

import asyncio
import itertools
import random
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.job import FINISHED
from accepted.domain.transitions import Transition
from accepted.errors import Conflict, LedgerUnavailable, NeedFailed
from accepted.services.jobs.completion import cancel, expire, finish_ends, settle
from accepted.services.manual_retry import replay_letters, retry
from accepted.storage.attempts.claims import Claim
from accepted.storage.dead_letters import LetterFilter
from accepted.storage.jobs import dependencies
from tests.support.ledger.brokers import BrokerHarness
from tests.support.ledger.dead_letters import from_now, read
from tests.support.ledger.jobs import claim, running_attempt, the_job
from tests.support.ledger.sql import do, rows
from tests.support.ledger.workflows import DIAMOND, put_graph, statuses
from tests.support.service.claiming_workers import all_finished, claiming_workers, success, until_heard

ROUNDS = 60


@pytest.fixture
def ledger(engine: AsyncEngine, broker: PostgresBroker) -> BrokerHarness:
    return BrokerHarness("postgres", engine, broker)


def won(claimed: Claim) -> Transition:
    return transitions.succeeded(running_attempt(claimed), "1")


def lost(claimed: Claim) -> Transition:
    return transitions.failed(running_attempt(claimed), FailureClass.INVALID, "no", 0.0)


async def finished_ends(ledger: BrokerHarness) -> int:
    """Do what the transactions of the ends have left. Returns the number of rounds."""
    rounds = 0
    while await finish_ends(ledger.engine, ledger.broker):
        rounds += 1
    return rounds


async def run(ledger: BrokerHarness, ids: dict[str, UUID], failing: str = "") -> list[str]:
    """Run all that can be run, one round after the other; the refs in the order of their ends."""
    refs = {id: ref for ref, id in ids.items()}
    order = []
    while claims := await claim(ledger.engine):
        ended = [lost(one) if refs[one.job.id] in failing else won(one) for one in claims]
        assert all(await settle(ledger.engine, ledger.broker, ended))
        order += sorted(refs[one.job.id] for one in claims)
        await do(ledger.engine, "UPDATE outbox SET published = true WHERE NOT on_hold")
    return order


async def test_a_job_runs_when_all_that_it_needs_succeeded(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    ids = await put_graph(engine, ledger.broker, DIAMOND)
    assert await statuses(engine, ids) == {"a": "queued", "b": "blocked", "c": "blocked", "d": "blocked"}
    assert await run(ledger, ids) == ["a", "b", "c", "d"]


async def test_an_end_without_success_ends_all_that_is_behind_it(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    needs = {"a": "", "x": "", "b": "a", "c": "b", "d": "cx", "y": "x"}
    ids = await put_graph(engine, ledger.broker, needs, callback_url="http://example.com/")
    assert await run(ledger, ids, failing="a") == ["a", "x", "y"]
    assert await statuses(engine, ids) == {
        "a": "failed",
        **dict.fromkeys("bcd", "cancelled"),
        **dict.fromkeys("xy", "succeeded"),
    }
    for ref, need, status in (("b", "a", "failed"), ("c", "b", "cancelled"), ("d", "c", "cancelled")):
        job = await the_job(engine, ids[ref])
        assert job["error"]["class"] == "cancelled"
        assert job["error"]["message"] == f"needed job {need} {ids[need]} which is {status}"
        assert job["finished_at"] is not None
    told = await rows(engine, "SELECT payload->>'job_id' AS id FROM jobs WHERE type = 'webhook.deliver'")
    assert {UUID(row["id"]) for row in told} == set(ids.values())
    (ends,) = await rows(
        engine, "SELECT count(*) AS ended FROM batch_moves WHERE to_status = ANY(:ends)", ends=list(FINISHED)
    )
    assert ends["ended"] == len(needs)


@pytest.mark.parametrize("end", ["cancel", "expire"])
async def test_so_does_one_that_never_ran(ledger: BrokerHarness, engine: AsyncEngine, end: str) -> None:
    ids = await put_graph(engine, ledger.broker, DIAMOND)
    if end == "cancel":
        await cancel(engine, ledger.broker, await read(engine, ids["a"]))
    else:
        await do(engine, "UPDATE outbox SET expires_at = now() WHERE NOT on_hold")
        assert await expire(engine, ledger.broker, 10) == 1
    assert set((await statuses(engine, ids)).values()) == {"cancelled" if end == "cancel" else "expired", "cancelled"}


async def test_a_chain_of_thousands_ends_in_a_few_rounds(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    refs = [str(n) for n in range(10_000)]
    needs = {ref: refs[n - 1 : n] if n else [] for n, ref in enumerate(refs)}
    ids = await put_graph(engine, ledger.broker, needs)
    assert await run(ledger, ids, failing="0") == ["0"]
    assert await finished_ends(ledger) == 4
    counts = await rows(engine, "SELECT status, count(*) AS n FROM jobs GROUP BY 1 ORDER BY 1")
    assert [tuple(row.values()) for row in counts] == [("cancelled", 9_999), ("failed", 1)]
    await retry(engine, await read(engine, ids["0"]))
    counts = await rows(engine, "SELECT status, count(*) AS n FROM jobs GROUP BY 1 ORDER BY 1")
    assert [tuple(row.values()) for row in counts] == [("blocked", 9_999), ("queued", 1)]


async def test_two_that_end_at_once_both_count(harness: BrokerHarness) -> None:
    """Diamonds, many rounds, on several workers: the two arms commit at the same time, in every order."""
    async with claiming_workers(harness, success, count=4, most=2):
        graphs = [await put_graph(harness.engine, harness.broker, DIAMOND) for _ in range(ROUNDS)]
        wide = {"end": [f"m{n}" for n in range(50)]}
        await put_graph(harness.engine, harness.broker, {f"m{n}": "" for n in range(50)} | wide)
        await all_finished(harness)
    for ids in graphs:
        assert set((await statuses(harness.engine, ids)).values()) == {"succeeded"}


@pytest.mark.parametrize("edges", [1000, 2], ids=["at once", "in rounds"])
async def test_whatever_happens_at_once_nobody_waits_for_ever(
    ledger: BrokerHarness, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, edges: int
) -> None:
    """Successes, failures, cancels and retries of layered graphs, against each other; an end goes along `edges`."""
    monkeypatch.setattr(dependencies, "MAX_BROKEN", edges)
    monkeypatch.setattr(dependencies, "MAX_MET", edges)
    layers = [[f"{layer}{n}" for n in range(4)] for layer in "abcd"]
    needs = {ref: list(above) for above, here in itertools.pairwise([[], *layers]) for ref in here}

    def mostly_success(delivery: object) -> Transition:
        claimed = delivery.claim  # type: ignore[attr-defined]
        return lost(claimed) if random.random() < 0.1 else won(claimed)

    async def meddle(ids: dict[str, UUID]) -> None:
        for _ in range(12):
            try:
                job = await read(engine, random.choice(list(ids.values())))
                if job.finished and job.status != "succeeded":
                    await retry(engine, job)
                elif random.random() < 0.3:
                    await cancel(engine, ledger.broker, job)
            except (Conflict, LedgerUnavailable):
                continue

    async def finish(every: float) -> None:
        while True:
            await until_heard(lambda: finish_ends(engine, ledger.broker))
            await asyncio.sleep(every)

    async with claiming_workers(ledger, mostly_success, count=4, most=3):
        finishing = [asyncio.create_task(finish(seconds)) for seconds in (0.01, 0.03)]
        graphs = [await put_graph(engine, ledger.broker, needs) for _ in range(8)]
        await asyncio.gather(*(meddle(ids) for ids in graphs for _ in range(2)))
        await all_finished(ledger)
        for one in finishing:
            one.cancel()
    await finished_ends(ledger)
    stale = "SELECT * FROM dependencies d JOIN jobs n ON n.id = d.needs WHERE d.broken <> (n.status <> 'succeeded')"
    assert await rows(engine, stale) == []


async def test_a_retry_resumes_the_rest(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    ids = await put_graph(engine, ledger.broker, DIAMOND | {"e": "d"})
    assert await run(ledger, ids, failing="b") == ["a", "b", "c"]
    again = await retry(engine, await read(engine, ids["b"]))
    assert again is not None
    assert again.status == "queued"
    waiting = {"a": "succeeded", "b": "queued", "c": "succeeded", "d": "blocked", "e": "blocked"}
    assert await statuses(engine, ids) == waiting
    await do(engine, "UPDATE outbox SET published = true WHERE NOT on_hold")
    assert await run(ledger, ids) == ["b", "d", "e"]


async def test_a_retry_leaves_what_another_failure_holds_back(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    ids = await put_graph(engine, ledger.broker, DIAMOND | {"e": "b", "f": "d"})
    assert await run(ledger, ids, failing="bc") == ["a", "b", "c"]
    await retry(engine, await read(engine, ids["b"]))
    expected = {"a": "succeeded", "b": "queued", "c": "failed", "d": "cancelled", "e": "blocked", "f": "cancelled"}
    assert await statuses(engine, ids) == expected
    with pytest.raises(NeedFailed) as refused:
        await retry(engine, await read(engine, ids["d"]))
    assert (refused.value.needs, refused.value.ref, refused.value.status) == (ids["c"], "c", "failed")
    assert (await replay_letters(engine, "t", LetterFilter(), 0)).done == 1
    assert await statuses(engine, ids) == expected | {"c": "queued", "d": "blocked", "f": "blocked"}
    await do(engine, "UPDATE outbox SET published = true WHERE NOT on_hold")
    assert await run(ledger, ids) == ["b", "c", "d", "e", "f"]


async def test_what_somebody_cancelled_himself_stays_so(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    ids = await put_graph(engine, ledger.broker, {"a": "", "b": "a", "c": "b", "d": "a"})
    await cancel(engine, ledger.broker, await read(engine, ids["b"]))
    await run(ledger, ids, failing="a")
    await retry(engine, await read(engine, ids["a"]))
    assert await statuses(engine, ids) == {"a": "queued", "b": "cancelled", "c": "cancelled", "d": "blocked"}
    again = await retry(engine, await read(engine, ids["b"]))
    assert again is not None
    assert again.status == "blocked"
    await do(engine, "UPDATE outbox SET published = true WHERE NOT on_hold")
    assert await run(ledger, ids) == ["a", "b", "d", "c"]


async def test_a_deadline_that_passed_meanwhile_falls_away_behind_a_retried_job_too(
    ledger: BrokerHarness, engine: AsyncEngine
) -> None:
    """Otherwise the retry would end at once what it has blocked again."""
    ids = await put_graph(engine, ledger.broker, {"a": "", "b": "a", "c": "b", "d": "a"})
    assert await run(ledger, ids, failing="a") == ["a"]
    hour = from_now(3600)
    await do(engine, "UPDATE jobs SET run_at = now() - interval '1 hour', expires_at = now() - interval '1 second'")
    await do(engine, "UPDATE jobs SET expires_at = :hour WHERE id = :id", hour=hour, id=ids["d"])
    await retry(engine, await read(engine, ids["a"]))
    deadlines = {row["job_id"]: row["expires_at"] for row in await rows(engine, "SELECT * FROM outbox")}
    assert deadlines == {**dict.fromkeys(ids.values()), ids["d"]: hour}
    assert await expire(engine, ledger.broker, 10) == 0
    await do(engine, "UPDATE outbox SET published = true WHERE NOT on_hold")
    assert await run(ledger, ids) == ["a", "b", "d", "c"]


@pytest.fixture
def in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """An end goes along one edge at a time."""
    monkeypatch.setattr(dependencies, "MAX_BROKEN", 1)
    monkeypatch.setattr(dependencies, "MAX_MET", 1)


@pytest.mark.usefixtures("in_rounds")
async def test_a_retry_between_two_rounds_stops_the_cancelling(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    ids = await put_graph(engine, ledger.broker, {"a": "", "b": "a", "c": "a", "d": "b", "e": "c"})
    assert await run(ledger, ids, failing="a") == ["a"]
    assert await finish_ends(engine, ledger.broker)
    ended = [ref for ref, status in (await statuses(engine, ids)).items() if status == "cancelled"]
    assert len(ended) == 2
    await retry(engine, await read(engine, ids["a"]))
    assert await finished_ends(ledger) == 0
    assert await statuses(engine, ids) == {"a": "queued", **dict.fromkeys("bcde", "blocked")}
    await do(engine, "UPDATE outbox SET published = true WHERE NOT on_hold")
    await finished_after(ledger, ids)
    assert set((await statuses(engine, ids)).values()) == {"succeeded"}


@pytest.mark.usefixtures("in_rounds")
async def test_a_retry_between_two_rounds_of_a_release_counts_each_need_once(
    ledger: BrokerHarness, engine: AsyncEngine
) -> None:
    """`c` and `d` need `a`, which has succeeded, and `x`, which fails: the retry of `x` blocks them again, and the
    release from `a` has come to `b` alone."""
    ids = await put_graph(engine, ledger.broker, {"a": "", "x": "", "b": "a", "c": "ax", "d": "ax"})
    assert await run(ledger, ids, failing="x") == ["a", "x", "b"]
    await finished_ends_of(ledger, "after IS NULL")
    expected = {"a": "succeeded", "x": "failed", "b": "succeeded", "c": "cancelled", "d": "cancelled"}
    assert await statuses(engine, ids) == expected
    await retry(engine, await read(engine, ids["x"]))
    assert [row["blockers"] for row in await rows(engine, "SELECT blockers FROM jobs WHERE ref IN ('c', 'd')")] == [
        2,
        2,
    ]
    await do(engine, "UPDATE outbox SET published = true WHERE NOT on_hold")
    await finished_ends(ledger)
    assert (await statuses(engine, ids))["c"] == "blocked", "x has still to run"
    await finished_after(ledger, ids)
    assert set((await statuses(engine, ids)).values()) == {"succeeded"}


async def finished_after(ledger: BrokerHarness, ids: dict[str, UUID]) -> None:
    """Run all that can be run, and what its ends have left, until nothing is left."""
    while await run(ledger, ids) or await finished_ends(ledger):
        await do(ledger.engine, "UPDATE outbox SET published = true WHERE NOT on_hold")


async def finished_ends_of(ledger: BrokerHarness, which: str) -> None:
    """Go on with these ends alone, as rounds that come first would."""
    kept = await rows(ledger.engine, f"DELETE FROM unfinished_ends WHERE NOT ({which}) RETURNING *")
    await finished_ends(ledger)
    for row in kept:
        await do(ledger.engine, "INSERT INTO unfinished_ends VALUES (:job_id, :batch_id, :after)", **row)
