"""GET /webhook-deliveries: every delivery of a tenant, its attempts, and the answer to each."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, job
from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.ids import new_id
from accepted.services import webhooks
from accepted.settings import Settings
from accepted.storage.db.engine import transaction
from tests.support.clients.client import Client, check_problem
from tests.support.ledger.jobs import apply, claim, put, running_attempt, the_job
from tests.support.ledger.sql import do, rows
from tests.support.ledger.webhook_deliveries import (
    ANSWER,
    URL,
    delivered,
    ended,
    listed,
    redeliver,
    sending,
    the_delivery,
    until_delivery,
)
from tests.support.servers.receiver import HANG_UP, Answer, Receiver
from tests.support.service.http_app import HttpApp
from tests.support.service.worker_with_handlers import worker_with_handlers

LONG_AGO = UUID("0188f1c2-7d5e-7cc3-98c4-dc0c0c07398f")
SAYS = {"status_code": 500, "body": "no"}


async def test_each_attempt_has_what_came_back(engine: AsyncEngine, broker: PostgresBroker, client: Client) -> None:
    answers = [Answer(500, b"x" * 3000), HANG_UP, Answer(200, b"taken")]
    async with Receiver(lambda _: answers.pop(0)) as receiver, sending(engine, broker):
        job_id, delivery_id = await ended(engine, receiver.url)
        for number in (1, 2):
            waiting = await until_delivery(client, delivery_id, "retrying")
            assert waiting["next_attempt_at"] > waiting["attempts"][-1]["finished_at"]
            assert len(waiting["attempts"]) == number
            assert (await redeliver(client, delivery_id)).status_code == 202
            await receiver.wait_for(number + 1)
        done = await until_delivery(client, delivery_id, "succeeded")
        assert len({(each.headers["webhook-id"], each.body) for each in receiver.requests}) == 1
    assert receiver.requests[0].headers["webhook-id"] == str(delivery_id)
    tried = done.pop("attempts")
    assert done == {
        "id": str(delivery_id), "job_id": str(job_id), "batch_id": None, "redelivery_of": None, "url": receiver.url,
        "event": "job.succeeded", "status": "succeeded", "created_at": done["created_at"], "next_attempt_at": None,
        "finished_at": tried[2]["finished_at"],
    }  # fmt: skip
    assert [each["attempt"] for each in tried] == [1, 2, 3]
    assert [each["outcome"] for each in tried] == ["transient", "transient", "succeeded"]
    assert [each["status_code"] for each in tried] == [500, None, 200]
    assert [each["body"] for each in tried] == ["x" * 1024, None, "taken"]
    assert tried[0]["error"] == {"class": "transient", "message": "the receiver answered 500", "attempt": 1}
    assert tried[2]["error"] is None


async def test_an_answer_whose_body_breaks_off_counts(
    engine: AsyncEngine, broker: PostgresBroker, client: Client
) -> None:
    cut = Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntaken")
    async with Receiver(lambda _: cut) as receiver, sending(engine, broker):
        _, delivery_id = await ended(engine, receiver.url)
        done = await until_delivery(client, delivery_id, "succeeded", "retrying")
    assert [(each["outcome"], each["status_code"], each["body"]) for each in done["attempts"]] == [
        ("succeeded", 200, "taken")
    ]


async def test_an_answer_that_is_long_as_json_counts(
    engine: AsyncEngine, broker: PostgresBroker, client: Client
) -> None:
    small = Settings(database_url="postgresql://unused", max_result_bytes=1024)
    async with Receiver(lambda _: Answer(200, b"\x01" * 1024)) as receiver, sending(engine, broker, small):
        _, delivery_id = await ended(engine, receiver.url)
        done = await until_delivery(client, delivery_id, "succeeded", "failed")
    assert [(each["outcome"], each["body"]) for each in done["attempts"]] == [("succeeded", "\x01" * 1024)]


async def test_what_came_back_may_be_anything(engine: AsyncEngine, broker: PostgresBroker, client: Client) -> None:
    async with Receiver(lambda _: Answer(410, b'\0 \xff "\\u0000')) as receiver, sending(engine, broker):
        _, delivery_id = await ended(engine, receiver.url)
        failed = await until_delivery(client, delivery_id, "failed")
    assert [each["body"] for each in failed["attempts"]] == ['\0 � "\\u0000']


async def test_an_answer_is_recorded_with_its_outcome_or_not_at_all(engine: AsyncEngine) -> None:
    await put(engine)
    (claimed,) = await claim(engine, 1)
    failure = transitions.failed(running_attempt(claimed), FailureClass.TRANSIENT, "x", 0.0)
    late = msgspec.structs.replace(running_attempt(claimed), worker_id=UUID(int=0xB))
    assert await apply(engine, msgspec.structs.replace(failure, running=late, answer=ANSWER)) == [False]
    assert [row["answer"] for row in await rows(engine, "SELECT answer FROM attempts")] == [None]
    assert await apply(engine, msgspec.structs.replace(failure, answer=ANSWER)) == [True]
    assert [row["answer"] for row in await rows(engine, "SELECT answer FROM attempts")] == [SAYS]
    assert (await the_job(engine, claimed.job.id))["error"] == {"class": "transient", "message": "x", "attempt": 1}


@job("answered.late", timeout=0.3)
async def answered_late(payload: dict[str, Any], ctx: Context) -> None:
    """Gets an answer, and then exceeds its timeout."""
    ctx.answer = ANSWER
    await asyncio.Event().wait()


@job("answered.children")
async def answered_with_children(payload: dict[str, Any], ctx: Context) -> None:
    """Gets an answer, and submits a child, for `generations` generations."""
    ctx.answer = ANSWER
    if payload["generations"]:
        await ctx.submit("answered.children", {"generations": payload["generations"] - 1}, queue=ctx.job.queue)


async def test_an_answer_is_kept_whatever_the_attempt_comes_to(engine: AsyncEngine, database_url: str) -> None:
    """The grandchild is one too many for its root, which is found out when its parent's outcome is recorded."""
    async with worker_with_handlers(
        engine, database_url, answered_late, answered_with_children, max_fanout_jobs=1
    ) as shop:
        await shop.finish("answered.late", max_attempts=1)
        parent = await shop.finish("answered.children", {"generations": 2})
        (child,) = await rows(engine, "SELECT id FROM jobs WHERE parent_id = :id", id=parent.id)
        await shop.finished(child["id"])
    found = await rows(engine, "SELECT outcome, answer FROM attempts")
    assert {row["outcome"]: row["answer"] for row in found} == {"timeout": SAYS, "succeeded": SAYS, "invalid": SAYS}


async def test_filters_and_pages(engine: AsyncEngine, broker: PostgresBroker, client: Client) -> None:
    made = [await delivered(engine, status) for status in ("succeeded", "failed", "retrying", "queued")]
    batch_id = await a_batch(engine, broker)
    (of_batch,) = await listed(client, f"batch_id={batch_id}")
    assert (of_batch["job_id"], of_batch["batch_id"], of_batch["event"]) == (None, str(batch_id), "batch.finished")
    newest_first = [of_batch["id"], *[str(delivery_id) for _, delivery_id in reversed(made)]]
    assert [each["id"] for each in await listed(client)] == newest_first
    for job_id, delivery_id in made:
        assert [each["id"] for each in await listed(client, f"job_id={job_id}")] == [str(delivery_id)]
        assert await listed(client, f"job_id={job_id}&status=expired") == []
    assert [each["id"] for each in await listed(client, "status=failed")] == [newest_first[3]]
    found, path = [], "/webhook-deliveries?limit=2"
    while path:
        answer = await client.get(path)
        found += answer.json()["items"]
        path = answer.headers.get("link", "").partition(">")[0].lstrip("<")
        assert bool(path) == (answer.json()["next"] is not None)
    assert found == await listed(client)


async def a_batch(engine: AsyncEngine, broker: PostgresBroker) -> UUID:
    batch_id = new_id()
    await do(
        engine,
        "INSERT INTO batches (id, tenant, workflow, total) VALUES (:id, 't', false, 1)", id=batch_id,
    )  # fmt: skip
    body = webhooks.event("batch.finished", None, {})
    async with transaction(engine) as conn:
        payload = {"url": URL, "batch_id": batch_id, "event": body}
        await webhooks.write(conn, broker, [webhooks.delivery("t", "webhook.deliver", payload)])
        await conn.commit()
    return batch_id


async def test_what_cannot_be_asked_for(engine: AsyncEngine, app: HttpApp, client: Client) -> None:
    job_id, delivery_id = await delivered(engine, "succeeded")
    await delivered(engine, "succeeded")
    cursor = (await client.get("/webhook-deliveries?limit=1")).json()["next"]
    for query, pointer in (
        ("job=1", "/job"),
        ("job_id=1", "/job_id"),
        ("status=sent", "/status"),
        ("limit=201", "/limit"),
        ("cursor=x", "/cursor"),
        (f"cursor={cursor}&status=failed", "/cursor"),
        (f"job_id={job_id}&batch_id={job_id}", "/batch_id"),
    ):
        check_problem(await client.get(f"/webhook-deliveries?{query}"), 422, pointer)
    check_problem(await client.get(f"/jobs?cursor={cursor}"), 422, "/cursor")
    check_problem(await (await app.client("other")).get(f"/webhook-deliveries?cursor={cursor}"), 422, "/cursor")
    writer = await app.client("t", "jobs:write")
    check_problem(await writer.get("/webhook-deliveries"), 403)
    check_problem(await client.http.post(f"/webhook-deliveries/{delivery_id}/redeliver?now=1"), 422, "/now")


async def test_of_a_job_that_is_not_there_it_does_not_say_that_nothing_was_sent(
    engine: AsyncEngine, app: HttpApp, client: Client
) -> None:
    job_id, delivery_id = await delivered(engine, "succeeded")
    other = await app.client("other")
    for kind in ("job_id", "batch_id"):
        check_problem(await client.get(f"/webhook-deliveries?{kind}={uuid4()}"), 404)
        check_problem(await client.get(f"/webhook-deliveries?{kind}={LONG_AGO}"), 410)
        check_problem(await other.get(f"/webhook-deliveries?{kind}={job_id}"), 404)
    check_problem(await client.get(f"/webhook-deliveries?batch_id={job_id}"), 404)
    assert await listed(other) == []
    (silent,) = await put(engine)
    assert await listed(client, f"job_id={silent}") == []
    await do(engine, "DELETE FROM jobs WHERE id = :id", id=job_id)
    assert [each["id"] for each in await listed(client, f"job_id={job_id}")] == [str(delivery_id)]


async def test_a_result_with_a_nul_in_it_is_no_trouble(engine: AsyncEngine, client: Client) -> None:
    """PostgreSQL's JSON functions refuse a text that has one."""
    job_id, delivery_id = await delivered(engine, "succeeded", result=json.dumps({"\0": "\0"}))
    assert (await the_delivery(client, delivery_id))["event"] == "job.succeeded"
    again = (await redeliver(client, delivery_id)).json()
    assert again["redelivery_of"] == str(delivery_id)
    assert len(await listed(client, f"job_id={job_id}")) == 2


async def test_one_that_cannot_be_read_does_not_hide_the_others(engine: AsyncEngine, client: Client) -> None:
    deliveries = [(await delivered(engine, "failed"))[1] for _ in range(3)]
    await do(engine, "UPDATE jobs SET payload = '[]' WHERE id = :id", id=deliveries[0])
    await do(engine, "UPDATE attempts SET answer = '[]' WHERE job_id = :id", id=deliveries[1])
    items = (await client.get("/webhook-deliveries")).json()["items"]
    assert [item["id"] for item in items] == [str(id_) for id_ in reversed(deliveries)]
    assert items[1]["attempts"][0]["body"] is None
