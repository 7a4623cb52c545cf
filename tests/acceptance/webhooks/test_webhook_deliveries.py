"""What became of webhooks, and sending one again. Contract, sections 4 and 6."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.support.clients.client import TIME, Client, Job, check_problem
from tests.support.servers.receiver import Answer, Receiver
from tests.support.service.running_service import Running
from tests.support.waiting import until


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def deliveries(client: Client, job: Job) -> list[Any]:
    answer = await client.get(f"/webhook-deliveries?job_id={job['id']}")
    assert answer.status_code == 200, answer.text
    items: list[Any] = answer.json()["items"]
    return items


async def until_delivery(client: Client, job: Job, *statuses: str) -> Any:
    """The newest delivery about the job, once it has come to one of these."""

    async def there() -> Any:
        found = await deliveries(client, job)
        return found[0] if found and found[0]["status"] in statuses else None

    return await until(there, 30, f"a delivery that is {statuses}", interval=0.1)


async def redeliver(client: Client, delivery: Any) -> Any:
    answer = await client.http.post(f"/webhook-deliveries/{delivery['id']}/redeliver")
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == answer.headers["operation-location"] == f"/jobs/{answer.json()['id']}"
    assert "retry-after" in answer.headers
    return answer.json()


async def test_a_receiver_that_fails_first(client: Client, receiver: Receiver) -> None:
    """Its first answer is seen, its retry brought forward, and what it lost sent again."""
    answers = [Answer(500, "é".encode() * 1000), Answer(200, b'{"got": "it"}'), Answer(204)]
    receiver.respond = lambda _: answers.pop(0)
    job = await client.finish(callback_url=receiver.url)
    waiting = await until_delivery(client, job, "retrying")
    assert (waiting["job_id"], waiting["batch_id"], waiting["url"]) == (job["id"], None, receiver.url)
    assert (waiting["event"], waiting["finished_at"]) == ("job.succeeded", None)
    (attempt,) = waiting["attempts"]
    assert TIME.fullmatch(waiting["next_attempt_at"])
    assert waiting["next_attempt_at"] > attempt["finished_at"] > attempt["started_at"] >= waiting["created_at"]
    assert (attempt["attempt"], attempt["outcome"], attempt["status_code"]) == (1, "transient", 500)
    assert attempt["body"] == "é" * 512
    assert attempt["error"]["class"] == "transient"

    assert (await redeliver(client, waiting))["id"] == waiting["id"]
    done = await until_delivery(client, job, "succeeded")
    assert (done["id"], done["next_attempt_at"]) == (waiting["id"], None)
    assert [(each["status_code"], each["body"]) for each in done["attempts"]] == [
        (500, "é" * 512),
        (200, '{"got": "it"}'),
    ]

    again = await redeliver(client, done)
    assert again["redelivery_of"] == done["id"] != again["id"]
    assert (await until_delivery(client, job, "succeeded"))["id"] == again["id"]
    assert [each["id"] for each in await deliveries(client, job)] == [again["id"], done["id"]]
    assert {each.headers["webhook-id"] for each in receiver.requests} == {done["id"]}
    assert len({each.body for each in receiver.requests}) == 1
    assert len(receiver.requests) == 3


async def test_one_that_failed_for_good(client: Client, receiver: Receiver) -> None:
    receiver.respond = lambda _: Answer(410, b"moved away")
    job = await client.finish(callback_url=receiver.url)
    failed = await until_delivery(client, job, "failed")
    assert [each["body"] for each in failed["attempts"]] == ["moved away"]
    receiver.respond = lambda _: Answer(200)
    assert (await redeliver(client, failed))["id"] == failed["id"]
    done = await until_delivery(client, job, "succeeded")
    assert [each["status_code"] for each in done["attempts"]] == [410, 200]
    letters = (await client.get(f"/dead-letters?ids={done['id']}")).json()["items"]
    assert letters == []


async def test_of_a_batch(client: Client, receiver: Receiver) -> None:
    body = {"jobs": [{"type": "noop"}], "callback_url": receiver.url}
    batch = (await client.http.post("/batches", json=body)).json()
    await receiver.wait_for(1, 30)
    (one,) = (await client.get(f"/webhook-deliveries?batch_id={batch['id']}")).json()["items"]
    assert (one["job_id"], one["batch_id"], one["event"]) == (None, batch["id"], "batch.finished")


async def test_it_is_the_tenants_own(
    client: Client, other: Client, receiver: Receiver, trio: Running, keys: dict[str, str]
) -> None:
    job = await client.finish(callback_url=receiver.url)
    delivery = await until_delivery(client, job, "succeeded")
    path = f"/webhook-deliveries/{delivery['id']}/redeliver"
    check_problem(await other.get(f"/webhook-deliveries?job_id={job['id']}"), 404)
    check_problem(await other.http.post(path), 404)
    check_problem(await client.http.post(f"/webhook-deliveries/{uuid4()}/redeliver"), 404)
    check_problem(await client.http.post("/webhook-deliveries/no-uuid/redeliver"), 404)
    check_problem(await client.http.post(f"/webhook-deliveries/{job['id']}/redeliver"), 404)
    reader, writer = trio.client(keys["reader"]), trio.client(keys["writer"])
    assert (await reader.get("/webhook-deliveries?limit=1")).status_code == 200
    check_problem(await writer.get("/webhook-deliveries"), 403)
    check_problem(await reader.http.post(path), 403)
    check_problem(await client.get("/webhook-deliveries?job=1"), 422, "/job")
    assert len(receiver.requests) == 1
