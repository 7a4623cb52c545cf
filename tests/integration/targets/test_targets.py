"""Failures of hosts in the ledger: which job has the one try, what a late report counts, which jobs come forward."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from structlog.testing import capture_logs

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.job import WEBHOOK_QUEUE, WEBHOOK_TYPE
from accepted.domain.network import targets as rules
from accepted.domain.network.addresses import EgressAllow
from accepted.services import manual_retry
from accepted.services import targets as service
from accepted.storage import pruning, targets
from accepted.storage.db.engine import transaction
from accepted.storage.targets import TargetHealth, Tried
from accepted_worker.handlers.webhooks import webhook_handler
from accepted_worker.outbound.egress import Egress
from tests.support.ledger.jobs import apply, claim, put, running_attempt
from tests.support.ledger.sql import do, rows
from tests.support.servers.receiver import Answer, Receiver
from tests.support.service.in_process_worker import accept, attempts, has, read, working
from tests.support.waiting import until

HOST = "partner:443"
OTHER = "other:443"
TRANSIENT = FailureClass.TRANSIENT


@pytest.fixture
async def conn(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection whose statements are transactions of their own, each with its own `now()`."""
    async with engine.connect() as one:
        yield await one.execution_options(isolation_level="AUTOCOMMIT")


async def fail(conn: AsyncConnection, times: int = 1, fence: datetime | None = None) -> TargetHealth | None:
    found = [await targets.failed(conn, "t", HOST, TRANSIENT, fence, 0.0) for _ in range(times)]
    return found[-1]


async def known(conn: AsyncConnection, tenant: str = "t") -> TargetHealth | None:
    found = await targets.of_tenant(conn, tenant, 10, HOST)
    return found[0] if found else None


async def half_open(engine: AsyncEngine) -> None:
    await do(engine, "UPDATE targets SET deferred_until = now() - interval '1 millisecond'")


async def tried(conn: AsyncConnection, lease: float = 30.0) -> Tried:
    found = await targets.try_(conn, "t", HOST, lease)
    assert found is not None
    return found


async def test_it_opens_with_the_fifth_failure_and_for_longer_each_time(conn: AsyncConnection, engine: Any) -> None:
    short = await fail(conn, rules.RUN - 1)
    assert short is not None
    assert (short.failures, short.state, short.deferred_until) == (rules.RUN - 1, "closed", None)
    opened = await fail(conn)
    assert opened is not None
    assert (opened.failures, opened.state) == (rules.RUN, "open")
    assert await fail(conn, 20) is None, "what was under way counts for nothing more"
    seconds = [opened.deferred_for]
    for _ in range(8):
        await half_open(engine)
        again = await fail(conn, fence=(await tried(conn)).fence)
        assert again is not None
        seconds.append(again.deferred_for)
    assert [round(each or 0) for each in seconds] == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert await known(conn, "another tenant") is None


async def test_a_host_that_asked_for_patience_and_then_fails_stays_deferred(conn: AsyncConnection, engine: Any) -> None:
    asked = await targets.defer(conn, "t", HOST, 60, None)
    assert asked is not None
    assert (asked.state, asked.failures, asked.reason) == ("open", 0, "rate_limited")
    shorter = await targets.defer(conn, "t", HOST, 1, None)
    assert shorter is not None
    assert shorter.deferred_until == asked.deferred_until, "a shorter wish of another call does not shorten it"
    await half_open(engine)
    after = await fail(conn, fence=(await tried(conn)).fence)
    assert after is not None
    assert (after.state, after.failures) == ("open", rules.RUN)


async def test_one_of_many_has_the_try(engine: AsyncEngine, conn: AsyncConnection) -> None:
    await fail(conn, rules.RUN)
    assert (await tried(conn)).fence is None, "it is not time yet"
    await half_open(engine)

    async def ask() -> Tried | None:
        async with transaction(engine) as one:
            found = await targets.try_(one, "t", HOST, 30)
            await one.commit()
        return found

    found = await asyncio.gather(*(ask() for _ in range(12)))
    assert len([each for each in found if each is not None and each.fence is not None]) == 1


async def test_who_dies_with_the_try_holds_it_no_longer_than_its_lease(conn: AsyncConnection) -> None:
    """If that worker was only slow, its late report changes nothing."""
    await targets.defer(conn, "t", HOST, 0.001, None)
    dead = (await until(lambda: given(conn, 0.2), 5)).fence
    assert (await tried(conn)).fence is None
    heir = (await until(lambda: given(conn, 30), 5)).fence
    assert heir != dead
    assert await fail(conn, fence=dead) is None
    assert await targets.answers(conn, "t", HOST, dead) is False
    assert await targets.answers(conn, "t", HOST, None) is False, "an answer from before says nothing of now"
    assert await known(conn) is not None
    assert await targets.answers(conn, "t", HOST, heir) is True
    assert await known(conn) is None


async def given(conn: AsyncConnection, lease: float) -> Tried | None:
    found = await tried(conn, lease)
    return found if found.fence else None


async def test_an_answer_ends_a_run_and_a_day_without_calls_too(conn: AsyncConnection, engine: Any) -> None:
    await fail(conn, rules.RUN - 1)
    assert await targets.answers(conn, "t", HOST, None) is False
    assert await known(conn) is None
    await fail(conn, rules.RUN)
    await pruning.prune_rest(conn)
    assert await known(conn) is not None
    await do(engine, "UPDATE targets SET deferred_until = now() - interval '25 hours'")
    await pruning.prune_rest(conn)
    assert await known(conn) is None


async def defer(
    engine: AsyncEngine, count: int, host: str, wait: float, says: str | None = None, **fields: Any
) -> set[UUID]:
    ids = await put(engine, count, **fields)
    claims = await claim(engine, count, queue=fields.get("queue", "q"))
    message = says or rules.why(host, TRANSIENT, rules.RUN)
    await apply(
        engine, *(transitions.deferred(running_attempt(each), TRANSIENT, message, wait, host) for each in claims)
    )
    return set(ids)


async def test_what_waits_for_a_host_is_let_go_at_a_rising_pace(engine: AsyncEngine) -> None:
    mine = await defer(engine, 61, HOST, 500, tenant="t")
    others = await defer(engine, 3, OTHER, 500, tenant="t") | await defer(engine, 3, HOST, 500, tenant="u")
    soon = await defer(engine, 1, HOST, 0.5, tenant="t")
    now = datetime.now(UTC)
    assert await service.wake(engine, "t", HOST) == 62
    due = {row["job_id"]: (row["due_at"] - now).total_seconds() for row in await rows(engine, "SELECT * FROM outbox")}
    seconds = sorted(due[id] for id in mine)
    assert -1 < seconds[0] < 1
    assert 3 < seconds[-1] < 5, "20 in the first two seconds, 40 in the next two"
    assert len([each for each in seconds if each < 2.5]) < 30
    assert all(due[id] > 400 for id in others)
    assert all(due[id] < 1 for id in soon), "no job waits longer"
    jobs = {row["id"]: row for row in await rows(engine, "SELECT * FROM jobs")}
    assert {jobs[id]["status"] for id in mine} == {"retrying"}
    assert all(abs((jobs[id]["run_at"] - now).total_seconds() - due[id]) < 0.01 for id in mine)
    assert {(jobs[id]["attempt"], jobs[id]["max_attempts"]) for id in mine} == {(1, 4)}


async def test_what_waits_for_a_host_is_not_found_by_the_words_of_its_error(engine: AsyncEngine) -> None:
    mine = await defer(engine, 1, HOST, 500, says="come back later", tenant="t")
    other = await defer(engine, 1, OTHER, 500, says=rules.why(HOST, TRANSIENT, rules.RUN), tenant="t")
    assert await service.wake(engine, "t", HOST) == 1
    (woken,) = await rows(engine, "SELECT job_id FROM outbox WHERE due_at < now() + interval '9 s'")
    assert {woken["job_id"]} == mine != other


async def test_all_are_let_go_however_many(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_BATCH", 4)
    for each in range(10):
        await defer(engine, 1, HOST, 500 + each, tenant="t")
    assert await service.wake(engine, "t", HOST) == 10
    assert [
        row["n"] for row in await rows(engine, "SELECT count(*) AS n FROM outbox WHERE due_at > now() + '9 s'")
    ] == [0]


async def deliver(engine: AsyncEngine, broker: PostgresBroker, url: str) -> UUID:
    payload = msgspec.json.encode({"url": url, "job_id": "x", "event": "{}"}).decode()
    return await accept(engine, broker, WEBHOOK_TYPE, payload, max_attempts=1, queue=WEBHOOK_QUEUE)


async def failing(engine: AsyncEngine) -> list[str]:
    return [row["url"] for row in await rows(engine, "SELECT url FROM webhook_urls")]


async def test_a_url_that_failed_for_five_days_is_given_up_until_a_replay(
    engine: AsyncEngine, broker: PostgresBroker
) -> None:
    handler = webhook_handler(engine, None)
    egress = Egress(EgressAllow.parse("127.0.0.0/8"))
    async with Receiver(lambda _: Answer(500)) as receiver, working(
        engine, broker, WEBHOOK_QUEUE, handlers={WEBHOOK_TYPE: handler}, egress=egress
    ):  # fmt: skip
        url = f"{receiver.url}/hook"
        first = await deliver(engine, broker, url)
        await until(has(engine, first, "failed"), 10)
        assert await failing(engine) == [url]
        await do(engine, "UPDATE webhook_urls SET failing_since = now() - interval '5 days 1 minute'")
        second = await deliver(engine, broker, url)
        given_up = await until(has(engine, second, "failed"), 10)
        assert "given up" in (given_up.error or "")
        await do(engine, "INSERT INTO targets (tenant, host, failures, reason, deferred_until) "
                         "VALUES ('t', :host, 9, 'transient', now() + interval '1 hour') "
                         "ON CONFLICT (tenant, host) DO UPDATE SET deferred_until = excluded.deferred_until",
                 host=f"127.0.0.1:{receiver.port}")  # fmt: skip
    async with receiver, working(engine, broker, WEBHOOK_QUEUE, handlers={WEBHOOK_TYPE: handler}, egress=egress):
        third = await deliver(engine, broker, url)
        await until(has(engine, third, "failed"), 10, "dead at once, though its host is deferred")
        assert len(receiver.requests) == 1

        await do(engine, "DELETE FROM targets")
        assert await manual_retry.replay(engine, await read(engine, second), None) is not None
        assert await failing(engine) == []
        await until(has(engine, second, "retrying"), 10)
        assert (len(receiver.requests), await failing(engine)) == (2, [url]), "tried, and five days begin anew"
        receiver.respond = lambda _: Answer()
        await until(has(engine, await deliver(engine, broker, url), "succeeded"), 10)
        assert await failing(engine) == []


async def test_days_in_which_nobody_called_are_no_days_of_failure(engine: AsyncEngine, broker: PostgresBroker) -> None:
    handler = webhook_handler(engine, None)
    egress = Egress(EgressAllow.parse("127.0.0.0/8"))
    since = "SELECT failing_since > now() - interval '1 minute' AS anew FROM webhook_urls"
    async with Receiver(lambda _: Answer(500)) as receiver, working(
        engine, broker, WEBHOOK_QUEUE, handlers={WEBHOOK_TYPE: handler}, egress=egress
    ):  # fmt: skip
        url = f"{receiver.url}/hook"
        await until(has(engine, await deliver(engine, broker, url), "failed"), 10)
        await do(engine, "UPDATE webhook_urls SET failing_since = now() - interval '6 days', "
                         "failed_at = now() - interval '25 hours'")  # fmt: skip
        await until(has(engine, await deliver(engine, broker, url), "failed"), 10)
        assert (len(receiver.requests), await rows(engine, since)) == (2, [{"anew": False}])
        await do(engine, "UPDATE webhook_urls SET failed_at = now() - interval '49 hours', "
                         "failing_since = now() - interval '6 days'")  # fmt: skip
        await until(has(engine, await deliver(engine, broker, url), "failed"), 10)
        assert (len(receiver.requests), await rows(engine, since)) == (3, [{"anew": True}])


async def test_a_ledger_that_is_away_is_no_fault_of_the_receiver(engine: AsyncEngine, broker: PostgresBroker) -> None:
    handler = webhook_handler(engine, None)
    egress = Egress(EgressAllow.parse("127.0.0.0/8"))
    async with (
        Receiver() as receiver,
        working(engine, broker, WEBHOOK_QUEUE, handlers={WEBHOOK_TYPE: handler}, egress=egress),
    ):
        with capture_logs() as lines:
            await do(engine, "ALTER TABLE webhook_secrets RENAME TO gone")
            delivery = await deliver(engine, broker, f"{receiver.url}/hook")
            await until(lambda: [line for line in lines if line["event"] == "handler_waits_for_ledger"], 10)
            await do(engine, "ALTER TABLE gone RENAME TO webhook_secrets")
        await until(has(engine, delivery, "succeeded"), 10)
        assert (len(receiver.requests), len(await attempts(engine, delivery))) == (1, 1)


async def test_an_error_of_ours_that_nobody_thought_of_is_an_outcome(
    engine: AsyncEngine, broker: PostgresBroker
) -> None:
    """The ledger fails when it is asked whether a host may be tried: the row cannot be updated."""
    egress = Egress(EgressAllow.parse("127.0.0.0/8"))
    async with Receiver() as receiver, working(engine, broker, egress=egress):
        await do(engine, "INSERT INTO targets (tenant, host, failures, reason, deferred_until) "
                         "VALUES ('t', :host, 9, 'transient', now() - interval '1 s')",
                 host=f"127.0.0.1:{receiver.port}")  # fmt: skip
        await do(engine, "ALTER TABLE targets ADD CONSTRAINT never CHECK (false) NOT VALID")
        payload = msgspec.json.encode({"url": receiver.url}).decode()
        job = await until(
            has(engine, await accept(engine, broker, "http.request", payload, max_attempts=1), "failed"), 10
        )
    assert '"class":"transient"' in (job.error or "")
    assert [one.outcome for one in await attempts(engine, job.id)] == ["transient"]
    assert receiver.requests == []


async def test_a_worker_that_cannot_ask_calls_all_the_same(engine: AsyncEngine, broker: PostgresBroker) -> None:
    await do(engine, "ALTER TABLE targets RENAME TO gone")
    egress = Egress(EgressAllow.parse("127.0.0.0/8"))
    async with Receiver(lambda _: Answer(500)) as receiver, working(engine, broker, egress=egress):
        payload = msgspec.json.encode({"url": receiver.url}).decode()
        id = await accept(engine, broker, "http.request", payload, max_attempts=1)
        await until(has(engine, id, "failed"), 10)
        assert [each.outcome for each in await attempts(engine, id)] == ["transient"]
        assert (await read(engine, id)).attempt == 1
