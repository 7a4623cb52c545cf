"""Alerts: each dead letter is in one alert; a few have one each, many share one."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
import standardwebhooks
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass, HandlerError
from accepted.domain.job import ALERT_TYPE
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.network.urls import UrlRefused, allowing_host_of
from accepted.services.alerts import OPERATOR
from accepted.settings import Settings
from accepted_worker.attempt.values import size_of
from accepted_worker.handlers.webhooks import alert_handler
from accepted_worker.scheduler import loops
from accepted_worker.scheduler.housekeeping import Reporter
from tests.support.ledger.dead_letters import fail, read
from tests.support.ledger.jobs import apply, claim, running_attempt
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.servers.receiver import Answer, Receiver, Request


@pytest.fixture
def reporter(engine: AsyncEngine) -> Reporter:
    return Reporter(engine, PostgresBroker(engine, ""))


async def alerts(engine: AsyncEngine) -> list[Any]:
    found = await rows(engine, "SELECT payload FROM jobs WHERE type = :type ORDER BY id", type=ALERT_TYPE)
    return [json.loads(row["payload"]["event"]) for row in found]


async def untold(engine: AsyncEngine) -> int:
    return len(await rows(engine, "SELECT * FROM dead_letters WHERE alerted_at IS NULL"))


async def a_minute_passes(engine: AsyncEngine) -> None:
    await do(engine, "UPDATE periodic_locks SET taken_at = taken_at - interval '1 minute'")
    await do(engine, "UPDATE jobs SET created_at = created_at - interval '1 minute'")


async def test_up_to_five_are_told_one_by_one(engine: AsyncEngine, reporter: Reporter) -> None:
    ids = await fail(engine, 4, tenant="acme", queue="work", message="no such city")
    (other,) = await fail(engine, tenant="other", kind=FailureClass.AUTH)
    assert await reporter.run_once() == 5
    told = await alerts(engine)
    assert {event["type"] for event in told} == {"dead_letter.created"}
    assert {event["data"]["job_id"] for event in told} == {str(id) for id in (*ids, other)}
    (one,) = [event["data"] for event in told if event["data"]["job_id"] == str(ids[0])]
    failed_at = (await rows(engine, "SELECT failed_at FROM dead_letters WHERE job_id = :id", id=ids[0]))[0]["failed_at"]
    assert one.pop("failed_at") == failed_at.isoformat().replace("+00:00", "Z")
    assert one == {
        "job_id": str(ids[0]), "tenant": "acme", "type": "noop", "queue": "work", "class": "invalid",
        "message": "no such city", "links": {"job": f"/jobs/{ids[0]}"},
    }  # fmt: skip
    jobs = await rows(engine, "SELECT DISTINCT tenant, queue, status FROM jobs WHERE type = :type", type=ALERT_TYPE)
    assert [tuple(job.values()) for job in jobs] == [(OPERATOR, "webhooks", "queued")]
    assert await reporter.run_once() == 0


async def test_more_are_told_together_and_not_again_within_a_minute(engine: AsyncEngine, reporter: Reporter) -> None:
    await fail(engine, 7, queue="a")
    await fail(engine, 2, queue="b", type="x", kind=FailureClass.AUTH)
    assert await reporter.run_once() == 9
    (event,) = await alerts(engine)
    assert (event["type"], event["data"]["count"], len(event["data"]["examples"])) == ("dead_letters.created", 9, 5)
    assert event["data"]["by"] == [
        {"queue": "a", "type": "noop", "class": "invalid", "count": 7},
        {"queue": "b", "type": "x", "class": "auth", "count": 2},
    ]
    await fail(engine, 20)
    for _ in range(3):
        assert await reporter.run_once() == 0
    assert await untold(engine) == 20
    await a_minute_passes(engine)
    assert await reporter.run_once() == 20
    assert [event["data"].get("count") for event in await alerts(engine)] == [9, 20]


async def test_a_trickle_is_coalesced_too(engine: AsyncEngine, reporter: Reporter) -> None:
    for _ in range(30):
        await fail(engine)
        await reporter.run_once()
    assert len(await alerts(engine)) == 6  # five singly, one together
    await a_minute_passes(engine)
    assert await reporter.run_once() == 24
    assert await untold(engine) == 0


async def test_any_number_of_reporters_tells_each_letter_once(engine: AsyncEngine) -> None:
    reporters = [Reporter(engine, PostgresBroker(engine, "")) for _ in range(4)]
    for count in (3, 3, 3, 3, 3, 50):
        await fail(engine, count)
        assert sum(await asyncio.gather(*(reporter.run_once() for reporter in reporters))) == count
        await a_minute_passes(engine)
    told = [event["data"] for event in await alerts(engine)]
    assert sum(data.get("count", 1) for data in told) == 65
    assert len([data for data in told if "count" in data]) == 1


async def test_a_failed_alert_raises_no_other(engine: AsyncEngine, reporter: Reporter) -> None:
    await fail(engine)
    assert await reporter.run_once() == 1
    await do(engine, "UPDATE outbox SET published = true")
    (alert,) = await claim(engine, queue="webhooks")
    await apply(engine, transitions.failed(running_attempt(alert), FailureClass.INVALID, "410", 0.0))
    assert len(await rows(engine, "SELECT * FROM dead_letters WHERE type = :type", type=ALERT_TYPE)) == 1
    await a_minute_passes(engine)
    assert await reporter.run_once() == 0


async def test_the_report_comes_once_a_day_over_all_schedulers(engine: AsyncEngine) -> None:
    async def a_round() -> int:
        reporters = [Reporter(engine, PostgresBroker(engine, "")) for _ in range(4)]
        return sum(await asyncio.gather(*(reporter.run_once() for reporter in reporters)))

    assert await a_round() == 0, "the first day begins now"
    await do(engine, "UPDATE periodic_locks SET taken_at = taken_at - interval '23 hours'")
    assert await a_round() == 0
    await do(engine, "UPDATE periodic_locks SET taken_at = taken_at - interval '1 hour'")
    assert await a_round() == 1
    (empty,) = await alerts(engine)
    assert (empty["type"], empty["data"]) == ("dead_letters.report", {"count": 0, "by": []})
    await fail(engine, 3, queue="a")
    await fail(engine, 1, queue="b", kind=FailureClass.AUTH)
    await do(engine, "UPDATE dead_letters SET alerted_at = now()")
    await do(engine, "UPDATE periodic_locks SET taken_at = taken_at - interval '1 day'")
    assert await a_round() == 1
    assert (await alerts(engine))[1]["data"] == {
        "count": 4,
        "by": [
            {"queue": "a", "type": "noop", "class": "invalid", "count": 3},
            {"queue": "b", "type": "noop", "class": "auth", "count": 1},
        ],
    }


def test_without_a_url_there_is_no_reporter(engine: AsyncEngine) -> None:
    def names(url: str | None) -> set[str]:
        settings = Settings(database_url="postgresql://127.0.0.1/accepted", alert_url=url)
        return {loop.name for loop in loops(engine, PostgresBroker(engine, ""), settings, PollConnection(engine))}

    assert names("http://127.0.0.1/x") - names(None) == {"reporter"}


async def deliver(engine: AsyncEngine, url: str | None, secret: str | None) -> Any:
    """The outcome of the handler for the alert that waits, or runs already."""
    await claim(engine, queue="webhooks")
    (job,) = await rows(engine, "SELECT id FROM jobs WHERE type = :type", type=ALERT_TYPE)
    handler = alert_handler(url, secret)
    alert = await read(engine, job["id"])
    return await handler.function(
        handler.payload.validate_json(alert.payload), SimpleNamespace(job=alert, max_result_bytes=1024)
    )


async def test_the_operators_own_host_is_called_though_it_is_private(engine: AsyncEngine, reporter: Reporter) -> None:
    await fail(engine)
    await reporter.run_once()
    async with Receiver(lambda _: Answer(200, b"\x01" * 1024)) as receiver:
        result = await deliver(engine, f"{receiver.url}/alerts?token=x", None)
        assert result["status_code"] == 200
        assert size_of(result) <= 1024
        (request,) = receiver.requests
        assert (request.method, request.path) == ("POST", "/alerts?token=x")
        assert "webhook-signature" not in request.headers
        assert json.loads(request.body)["type"] == "dead_letter.created"


async def test_an_alert_is_signed_where_there_is_a_secret(engine: AsyncEngine, reporter: Reporter) -> None:
    secret = "whsec_" + "A" * 32
    await fail(engine)
    await reporter.run_once()
    async with Receiver() as receiver:
        await deliver(engine, receiver.url, secret)
        request: Request = receiver.requests[0]
        assert standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))


async def test_a_worker_without_the_url_leaves_it_to_others(engine: AsyncEngine, reporter: Reporter) -> None:
    await fail(engine)
    await reporter.run_once()
    with pytest.raises(HandlerError, match="ALERT_URL") as refused:
        await deliver(engine, None, None)
    assert refused.value.failure_class is FailureClass.TRANSIENT
    async with Receiver(lambda _: Answer(500)) as receiver:
        with pytest.raises(HandlerError, match="500"):
            await deliver(engine, receiver.url, None)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:9/x", "127.0.0.1"),
        ("https://hooks.example.com/T0/B0", "hooks.example.com"),
        ("http://[::1]/", "::1"),
    ],
)
def test_nothing_but_its_host_is_allowed(url: str, host: str) -> None:
    assert allowing_host_of(url) == EgressAllow.parse(host)


@pytest.mark.parametrize("url", ["ftp://x/", "http://user:pass@x/", "x", "http:///", ""])
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused):
        allowing_host_of(url)
