"""The same service with RabbitMQ between its API and its workers: fewer tests than on PostgreSQL."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import aio_pika
import pytest

from tests.support.clients.client import PATIENCE, Client, from_now
from tests.support.clients.queue_limits import SCENARIOS, Scenario
from tests.support.clients.start_delays import lateness, percentile
from tests.support.servers.postgres import DatabaseServer
from tests.support.servers.receiver import Receiver
from tests.support.service.running_service import serving, types_known
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def operator() -> AsyncIterator[Receiver]:
    """The receiver of alerts."""
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
async def rabbit(
    database_server: DatabaseServer, database_template: str, session_broker: str, operator: Receiver
) -> AsyncIterator[Client]:
    name = f"rabbit_{uuid4().hex}"
    url = database_server.create_database(name, template=database_template)
    env = {"ACCEPTED_AUTH": "off", "ACCEPTED_BROKER_URL": session_broker, "ACCEPTED_ALERT_URL": f"{operator.url}/alert"}
    async with serving(url, env) as running:
        client = running.client()
        await types_known(client)
        yield client
    database_server.drop_database(name)


async def test_jobs_run(rabbit: Client) -> None:
    answers = await asyncio.gather(*(rabbit.post({"type": "noop", "queue": "several"}) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {202}
    jobs = [await rabbit.finished(answer.json()["id"]) for answer in answers]
    assert {(job["status"], job["attempt"]) for job in jobs} == {("succeeded", 1)}


async def test_prefer_wait_and_a_new_queue(rabbit: Client) -> None:
    answer = await rabbit.post({"type": "noop", "queue": f"new-{uuid4()}"}, prefer="wait=30")
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


async def test_delay_retry_expiry_and_timeout(rabbit: Client) -> None:
    delayed = await rabbit.submit("noop", delay=1)
    retried = await rabbit.submit("sleep", {"seconds": 0, "fail_attempts": 2}, retry={"schedule": [0.2], "jitter": 0})
    late = await rabbit.submit(
        "sleep", {"seconds": 0, "fail_attempts": 9}, retry={"schedule": [60]}, expires_at=from_now(4)
    )
    slow = await rabbit.submit("sleep", {"seconds": 60}, timeout=0.5, retry={"max_attempts": 1})
    assert (await rabbit.finished(delayed["id"]))["status"] == "succeeded"
    done = await rabbit.finished(retried["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 3)
    assert (await rabbit.finished(late["id"]))["status"] == "expired"
    assert (await rabbit.finished(slow["id"]))["error"]["class"] == "timeout"


async def test_delays_are_kept_and_nothing_that_waits_is_on_the_broker(rabbit: Client, session_broker: str) -> None:
    """(tests/acceptance/jobs/test_delays.py has the figures of a quiet machine, with 100,000 jobs that wait.)"""
    for queue in ("later", "soon"):  # a worker takes seconds to find a new one
        await rabbit.finish("noop", queue=queue)
    waiting = {"jobs": [{"type": "noop", "queue": "later", "delay": 3600}] * 2000}
    assert (await rabbit.http.post("/batches", json=waiting)).status_code == 202
    late = await lateness(rabbit, 60, 1, 3, "soon")
    assert late[0] >= 0
    assert percentile(late, 0.5) < 2, late
    async with await aio_pika.connect(session_broker) as connection, connection.channel() as channel:
        declared = await channel.declare_queue("accepted.q.later", passive=True)
        assert declared.declaration_result.message_count == 0


async def test_a_queue_that_was_deleted_does_not_hold_up_the_next_job(rabbit: Client, session_broker: str) -> None:
    """A reference that RabbitMQ returns is published again at once, not after the relay's hold of 10 s."""
    await rabbit.finish("noop", queue="deleted")
    async with await aio_pika.connect(session_broker) as connection, connection.channel() as channel:
        await channel.queue_delete("accepted.q.deleted")
    started = time.monotonic()
    answer = await rabbit.post({"type": "noop", "queue": "deleted"}, prefer="wait=30")
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert time.monotonic() - started < 10, "2 on a quiet machine"


async def test_one_key_a_hundred_times_runs_once(rabbit: Client) -> None:
    key = str(uuid4())
    answers = await asyncio.gather(*(rabbit.post({"type": "noop"}, idempotency_key=key) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {202}
    assert sum(answer.headers.get("idempotent-replayed") == "true" for answer in answers) == 99
    (id,) = {answer.json()["id"] for answer in answers}
    assert (await rabbit.finished(id))["status"] == "succeeded"
    assert len(await rabbit.attempts(id)) == 1


async def test_a_webhook_is_delivered(rabbit: Client) -> None:
    async with Receiver() as receiver:
        job = await rabbit.submit("noop", callback_url=receiver.url)
        (request,) = await receiver.wait_for(1, 30)
        assert json.loads(request.body)["data"]["id"] == job["id"]


GARBAGE = {
    "nothing": b"",
    "no JSON": b"\xff\x00garbage",
    "another shape": b'{"job": 1}',
    "another version": b'{"v":2,"id":"01a20a5f-5eca-7433-9bac-af4993e68657","attempt":0}',
    "a negative attempt": b'{"v":1,"id":"01a20a5f-5eca-7433-9bac-af4993e68657","attempt":-1}',
    "an attempt beyond 32 bits": b'{"v":1,"id":"01a20a5f-5eca-7433-9bac-af4993e68657","attempt":99999999999}',
    "deep": b"[" * 100_000,
    "an unknown job": b'{"v":1,"id":"01a20a5f-5eca-7433-9bac-af4993e68657","attempt":0}',
}


async def test_garbage_goes_to_the_dead_queue_and_blocks_nothing(rabbit: Client, session_broker: str) -> None:
    """Section 5: rejected without requeue into the dead-letter queue; it never blocks the jobs behind it."""
    await rabbit.finish("noop", queue="garbage")
    async with await aio_pika.connect(session_broker) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("accepted.jobs")
        for body in GARBAGE.values():
            await exchange.publish(aio_pika.Message(body), routing_key="accepted.q.garbage")
        jobs = [await rabbit.submit("noop", queue="garbage") for _ in range(5)]
        for job in jobs:
            assert (await rabbit.finished(job["id"]))["status"] == "succeeded"
        dead = await channel.get_queue("accepted.dead")
        found = []

        async def all_there() -> bool:
            while (message := await dead.get(no_ack=True, fail=False)) is not None:
                found.append(message.body)
            return len(found) >= len(GARBAGE)

        await until(all_there, 30, lambda: f"{found}")
        assert sorted(found) == sorted(GARBAGE.values())


async def test_a_stale_or_doubled_message_changes_nothing(rabbit: Client, session_broker: str) -> None:
    job = await rabbit.finish("noop", queue="doubled")
    parked = await rabbit.submit("noop", queue="doubled", delay=3600)
    async with await aio_pika.connect(session_broker) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("accepted.jobs")
        for attempt in (0, 1, 2):
            body = json.dumps({"v": 1, "id": job["id"], "attempt": attempt}).encode()
            await exchange.publish(aio_pika.Message(body), routing_key="accepted.q.doubled")
        await rabbit.finish("noop", queue="doubled")
    assert await rabbit.job(job["id"]) == job
    assert len(await rabbit.attempts(job["id"])) == 1
    assert (await rabbit.job(parked["id"]))["status"] == "scheduled"


async def test_the_messages_are_as_the_contract_has_them(rabbit: Client, session_broker: str) -> None:
    """Section 7, seen from a queue of our own on the same exchange."""
    await rabbit.finish("noop", queue="seen")
    async with await aio_pika.connect(session_broker) as connection:
        channel = await connection.channel()
        tap = await channel.declare_queue(exclusive=True)
        await tap.bind("accepted.jobs", routing_key="accepted.q.seen")
        traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        answer = await rabbit.post({"type": "noop", "queue": "seen"}, traceparent=traceparent)
        id = answer.json()["id"]

        async def got() -> aio_pika.abc.AbstractIncomingMessage | None:
            return await tap.get(no_ack=True, fail=False)

        message = await until(got, PATIENCE, "the message")
        assert json.loads(message.body) == {"v": 1, "id": id, "attempt": 0}
        assert message.content_type == "application/json"
        assert message.delivery_mode == 2
        assert message.message_id == f"{id}:0"
        assert message.type == "noop"
        assert "4bf92f3577b34da6a3ce929d0e0e4736" in str(message.headers["traceparent"])


async def test_a_dead_letter_is_told_to_the_operator_and_replayed(rabbit: Client, operator: Receiver) -> None:
    fails = {"payload": {"seconds": 0, "fail_attempts": 1}, "retry": {"max_attempts": 1}}
    job = await rabbit.finish("sleep", queue="dead", **fails)
    assert job["status"] == "failed"
    requests = await operator.wait_for(lambda all: any(job["id"].encode() in each.body for each in all), 40)
    (request,) = [each for each in requests if job["id"].encode() in each.body]
    assert request.path == "/alert"
    assert json.loads(request.body)["type"] in ("dead_letter.created", "dead_letters.created")
    done = await rabbit.http.post("/dead-letters/replay", json={"queue": "dead", "spread_over": 1})
    assert done.json() == {"matched": 1, "replayed": 1}
    assert (await rabbit.finished(job["id"]))["status"] == "succeeded"


async def test_rejected_messages_are_counted(rabbit: Client, session_broker: str) -> None:
    await rabbit.finish("noop", queue="counted")
    async with await aio_pika.connect(session_broker) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("accepted.jobs")
        await exchange.publish(aio_pika.Message(b"no reference"), routing_key="accepted.q.counted")

        async def counted() -> bool:
            metrics = (await rabbit.get("/metrics")).text
            return re.search(r"^accepted_rejected_messages [1-9]", metrics, re.MULTILINE) is not None

        await until(counted, 30, "the message", interval=0.2)
        dead = await channel.get_queue("accepted.dead")
        message = await dead.get(no_ack=True)
        assert message is not None
        assert message.body == b"no reference"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
async def test_a_limit_is_kept(rabbit: Client, scenario: Scenario) -> None:
    await scenario(rabbit, f"limited-{uuid4().hex[:8]}")
