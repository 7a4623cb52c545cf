"""POST /webhook-deliveries/{id}/redeliver: what it does in each status, and what it leaves unchanged."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.job import WEBHOOK_QUEUE
from accepted.errors import Conflict
from accepted.services import webhooks as service
from accepted.storage import webhooks
from accepted.storage.db.engine import transaction
from tests.support.clients.client import Client, check_problem
from tests.support.ledger.brokers import BrokerHarness
from tests.support.ledger.dead_letters import read
from tests.support.ledger.jobs import claim, put, the_job
from tests.support.ledger.sql import do, rows, waits_for_a_lock
from tests.support.ledger.webhook_deliveries import (
    URL,
    delivered,
    ended,
    listed,
    redeliver,
    sending,
    the_delivery,
    until_delivery,
)
from tests.support.servers.receiver import Answer, Receiver
from tests.support.service.http_app import HttpApp
from tests.support.waiting import until

DAYS_AGO = "INSERT INTO webhook_urls (tenant, url, failing_since) VALUES ('t', :url, now() - interval '6 days')"
OUTBOX = "SELECT *, due_at <= now() AS due FROM outbox WHERE job_id = :id"


async def row_of(engine: AsyncEngine, delivery_id: UUID) -> Any:
    (row,) = await rows(engine, OUTBOX, id=delivery_id)
    return row


async def given_up(engine: AsyncEngine, url: str = URL) -> bool:
    async with transaction(engine) as conn:
        return await webhooks.given_up(conn, "t", url)


def check_headers(answer: Any) -> None:
    where = f"/jobs/{answer.json()['id']}"
    assert answer.headers["location"] == answer.headers["operation-location"] == where
    assert answer.headers["link"] == f'<{where}>; rel="monitor"'
    assert answer.headers["retry-after"] == "1"


async def test_one_that_succeeded_is_sent_again_by_another(harness: BrokerHarness) -> None:
    """Under the same `webhook-id`, with the same body; and so is that one."""
    async with Receiver() as receiver, sending(harness.engine, harness.broker):
        job_id, first = await ended(harness.engine, receiver.url, broker=harness.broker)
        ids = [first]
        for count in (1, 2, 3):
            await receiver.wait_for(count, 20)
            await until(has_succeeded(harness.engine, ids[-1]), 20, "the end of the delivery")
            ids.append(
                (await service.redeliver(harness.engine, harness.broker, await read(harness.engine, ids[-1]))).id
            )
        await receiver.wait_for(4, 20)
    assert {each.headers["webhook-id"] for each in receiver.requests} == {str(first)}
    assert len({each.body for each in receiver.requests}) == 1
    assert len(set(ids)) == 4
    async with transaction(harness.engine) as conn:
        found = await webhooks.page(conn, "t", webhooks.DeliveryFilter(job_id=str(job_id)), 10)
    assert [(each.id, each.redelivery_of) for each in found] == [
        *[(id, str(first)) for id in reversed(ids[1:])], (first, None)
    ]  # fmt: skip


def has_succeeded(engine: AsyncEngine, delivery_id: UUID) -> Any:
    async def check() -> bool:
        return (await read(engine, delivery_id)).status == "succeeded"

    return check


async def test_one_that_succeeded_stays_what_it_is(engine: AsyncEngine, client: Client) -> None:
    _, delivery_id = await delivered(engine, "succeeded")
    before = await the_job(engine, delivery_id)
    await do(engine, DAYS_AGO, url=URL)
    answer = await redeliver(client, delivery_id)
    assert answer.status_code == 202
    check_headers(answer)
    new = answer.json()
    assert new == await the_delivery(client, new["id"])
    assert (new["status"], new["attempts"], new["redelivery_of"]) == ("queued", [], str(delivery_id))
    assert await the_job(engine, delivery_id) == before
    assert not await given_up(engine), "it is to be sent, not to fail at once"
    made = await the_job(engine, UUID(new["id"]))
    assert (made["max_attempts"], made["queue"]) == (before["max_attempts"], "webhooks")


async def test_of_many_who_ask_at_once_one_is_heard(engine: AsyncEngine, client: Client) -> None:
    job_id, delivery_id = await delivered(engine, "succeeded")
    answers = await asyncio.gather(*(redeliver(client, delivery_id) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    assert len(await listed(client, f"job_id={job_id}")) == 2
    (new,) = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    refused = check_problem(await redeliver(client, delivery_id), 409)
    assert new in refused["detail"]
    await do(engine, "UPDATE jobs SET status = 'cancelled', finished_at = now() WHERE id = :id", id=UUID(new))
    assert (await redeliver(client, delivery_id)).status_code == 202, "the one before has ended"


async def test_redeliveries_of_others_are_not_in_the_way(engine: AsyncEngine, client: Client) -> None:
    """Those of another job, and those of another end of the same job, which was retried."""
    made = [await delivered(engine, "succeeded") for _ in range(3)]
    tells_of = "json_build_object('url', 'x', 'job_id', CAST(:job_id AS text), 'event', payload ->> 'event')"
    await do(engine, f"UPDATE jobs SET payload = {tells_of} WHERE id = :id", id=made[2][1], job_id=str(made[0][0]))
    for _, delivery_id in made:
        assert (await redeliver(client, delivery_id)).status_code == 202


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_one_that_ended_otherwise_is_retried(engine: AsyncEngine, client: Client, status: str) -> None:
    job_id, delivery_id = await delivered(engine, status)
    await do(engine, DAYS_AGO, url=URL)
    answer = await redeliver(client, delivery_id)
    assert answer.status_code == 202
    check_headers(answer)
    again = answer.json()
    assert (again["id"], again["status"], again["redelivery_of"]) == (str(delivery_id), "queued", None)
    assert [each["attempt"] for each in again["attempts"]] == [1]
    assert (await the_job(engine, delivery_id))["max_attempts"] == 11, "with a fresh budget"
    assert await rows(engine, "SELECT 1 FROM dead_letters") == []
    assert (await row_of(engine, delivery_id))["due"]
    assert not await given_up(engine)
    assert len(await listed(client, f"job_id={job_id}")) == 1


@pytest.mark.parametrize("status", ["retrying", "scheduled"])
async def test_one_that_waits_comes_now(engine: AsyncEngine, client: Client, status: str) -> None:
    _, delivery_id = await delivered(engine, status)
    await do(engine, DAYS_AGO, url=URL)
    before = await row_of(engine, delivery_id)
    assert not before["due"]
    answer = await redeliver(client, delivery_id)
    assert answer.status_code == 202
    check_headers(answer)
    assert (answer.json()["id"], answer.json()["status"]) == (str(delivery_id), status)
    after, job = await row_of(engine, delivery_id), await the_job(engine, delivery_id)
    assert after["due"]
    assert job["run_at"] == after["due_at"] < before["due_at"]
    assert (job["attempt"], job["max_attempts"]) == (1, 10), "its budget is what it was"
    assert not await given_up(engine)
    await redeliver(client, delivery_id)
    assert (await row_of(engine, delivery_id))["due_at"] == after["due_at"], "what is due is not put off"
    assert (await the_job(engine, delivery_id))["run_at"] == after["due_at"]


async def test_one_that_the_relay_takes_meanwhile_is_left_to_it(engine: AsyncEngine, broker: PostgresBroker) -> None:
    """The relay has its outbox row for 10 s then; made due at once, it would be published twice."""
    _, delivery_id = await delivered(engine, "retrying")
    job = await read(engine, delivery_id)
    await do(engine, DAYS_AGO, url=URL)
    async with transaction(engine) as conn:
        await conn.exec_driver_sql("UPDATE outbox SET due_at = now() + interval '10 s'")
        await conn.exec_driver_sql(f"UPDATE jobs SET status = 'queued' WHERE id = '{delivery_id}'")
        asking = asyncio.create_task(service.redeliver(engine, broker, job))
        await until(lambda: waits_for_a_lock(engine), 10)
        await conn.commit()
    with pytest.raises(Conflict):
        await asking
    assert not (await row_of(engine, delivery_id))["due"]
    assert await given_up(engine), "nothing was done"


@pytest.mark.parametrize(
    "changes",
    [
        ["UPDATE jobs SET attempt = 2 WHERE id = :id"],
        ["UPDATE jobs SET attempt = 2 WHERE id = :id", "UPDATE outbox SET attempt = 2 WHERE job_id = :id"],
        ["UPDATE jobs SET status = 'running' WHERE id = :id"],
    ],
)
async def test_one_that_has_changed_since_it_was_read(
    engine: AsyncEngine, broker: PostgresBroker, changes: list[str]
) -> None:
    for status in ("retrying", "failed"):
        _, delivery_id = await delivered(engine, status)
        job = await read(engine, delivery_id)
        for change in changes:
            await do(engine, change, id=delivery_id)
        with pytest.raises(Conflict):
            await service.redeliver(engine, broker, job)
        assert not [row for row in await rows(engine, OUTBOX, id=delivery_id) if row["due"]]


async def test_one_that_was_pruned_meanwhile(engine: AsyncEngine, broker: PostgresBroker) -> None:
    _, delivery_id = await delivered(engine, "succeeded")
    job = await read(engine, delivery_id)
    await do(engine, "DELETE FROM jobs WHERE id = :id", id=delivery_id)
    with pytest.raises(Conflict):
        await service.redeliver(engine, broker, job)
    assert await rows(engine, "SELECT 1 FROM jobs WHERE type = 'webhook.deliver'") == []


async def test_one_that_is_being_sent_is_409(engine: AsyncEngine, client: Client) -> None:
    _, delivery_id = await delivered(engine, "queued")
    check_problem(await redeliver(client, delivery_id), 409)
    await claim(engine, 1, queue=WEBHOOK_QUEUE)
    refused = check_problem(await redeliver(client, delivery_id), 409)
    assert "running" in refused["detail"]


async def test_who_may(engine: AsyncEngine, app: HttpApp, client: Client) -> None:
    job_id, delivery_id = await delivered(engine, "failed")
    check_problem(await redeliver(await app.client("other"), delivery_id), 404)
    check_problem(await redeliver(await app.client("t", "jobs:read"), delivery_id), 403)
    for unknown in (uuid4(), "no-uuid", job_id):
        check_problem(await redeliver(client, unknown), 404)
    assert await rows(engine, OUTBOX, id=delivery_id) == []
    assert (await redeliver(await app.client("t", "jobs:write"), delivery_id)).status_code == 202


async def test_no_other_job_is_taken_for_a_delivery(engine: AsyncEngine, client: Client) -> None:
    """Its payload may be whatever its type allows."""
    (id,) = await put(engine, payload=f'{{"job_id": "{uuid4()}", "url": "x", "event": "{{}}"}}')
    await do(engine, "UPDATE jobs SET status = 'failed', attempt = 1, finished_at = now() WHERE id = :id", id=id)
    check_problem(await redeliver(client, id), 404)
    assert await listed(client) == []


async def test_a_url_that_was_given_up_is_tried(engine: AsyncEngine, broker: PostgresBroker, client: Client) -> None:
    async with Receiver(lambda _: Answer(500)) as receiver, sending(engine, broker):
        _, delivery_id = await ended(engine, receiver.url)
        await until_delivery(client, delivery_id, "retrying")
        await do(engine, "UPDATE webhook_urls SET failing_since = now() - interval '6 days'")
        assert (await redeliver(client, delivery_id)).status_code == 202
        await receiver.wait_for(2)
