"""Webhooks, as the libraries of their receivers see them. Contract, section 6."""

import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import standardwebhooks
import svix.webhooks

from tests.support.clients.client import Client, Job, check_problem
from tests.support.servers.receiver import Answer, Receiver, Request
from tests.support.service.running_service import Running
from tests.support.waiting import until

FAILS = {"type": "sleep", "payload": {"seconds": 0, "fail_attempts": 9}, "retry": {"max_attempts": 1}}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
async def hooks(trio: Running, keys: dict[str, str], client: Client) -> Client:
    """A tenant whose secret may be rotated; `client` so that the types are known."""
    return trio.client(keys["hooks"])


async def secrets(client: Client) -> Any:
    return (await client.get("/webhook-secret")).json()


def verify(request: Request, secret: str) -> Any:
    """The body, once both libraries have found its signature good."""
    svix.webhooks.Webhook(secret).verify(request.body, dict(request.headers))  # raises; returns nothing
    return standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))


def refuses(request: Request, secret: str) -> bool:
    try:
        standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))
    except standardwebhooks.WebhookVerificationError:
        return True
    return False


async def told(client: Client, receiver: Receiver, **body: Any) -> tuple[Job, Request]:
    """Submit with a callback; the finished job and the first request about it."""
    answer = await client.post({"type": "noop", **body, "callback_url": f"{receiver.url}/hook?a=b"})
    assert answer.status_code == 202, answer.text
    requests = await receiver.wait_for(1, 30)
    return await client.finished(answer.json()["id"]), requests[0]


async def deliveries_of(client: Client, job: Job) -> list[Job]:
    page = (await client.get("/jobs?type=webhook.deliver&limit=200&include=payload")).json()["items"]
    return [each for each in page if job["id"] in json.dumps(each)]


async def delivery_finished(client: Client, job: Job) -> Job:
    await client.finished(job["id"])
    (delivery,) = await deliveries_of(client, job)
    return await client.finished(delivery["id"])


async def test_a_webhook_tells_the_end_and_is_signed(client: Client, receiver: Receiver) -> None:
    job, request = await told(client, receiver, payload={"ü": 1}, metadata={"order": "7"})

    assert (request.method, request.path) == ("POST", "/hook?a=b")
    assert request.headers["content-type"].startswith("application/json")
    body = verify(request, (await secrets(client))["secret"])
    assert set(body) == {"type", "timestamp", "data"}
    assert body["type"] == "job.succeeded"
    assert body["data"] == job
    assert abs(datetime.fromisoformat(body["timestamp"]).timestamp() - time.time()) < 60
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    assert "." not in request.headers["webhook-id"]
    assert "authorization" not in request.headers
    assert refuses(request, "whsec_" + "A" * 32)


async def test_a_changed_body_is_not_what_was_signed(client: Client, receiver: Receiver) -> None:
    _, request = await told(client, receiver)
    changed = Request(request.method, request.path, request.headers, request.body.replace(b"succeeded", b"cancelled"))
    assert refuses(changed, (await secrets(client))["secret"])


async def test_failure_and_expiry_are_told(client: Client, receiver: Receiver) -> None:
    job, request = await told(client, receiver, **FAILS)
    body = verify(request, (await secrets(client))["secret"])
    assert (body["type"], body["data"]["status"]) == ("job.failed", "failed")
    assert body["data"]["error"] == job["error"]


async def test_an_expired_job_is_told(client: Client, receiver: Receiver) -> None:
    expires_at = datetime.fromtimestamp(time.time() + 3).astimezone().isoformat()
    retries = {**FAILS, "retry": {"max_attempts": 2, "schedule": [60]}, "expires_at": expires_at}
    _, request = await told(client, receiver, **retries)
    assert verify(request, (await secrets(client))["secret"])["type"] == "job.expired"


async def test_only_the_events_asked_for_are_told(client: Client, receiver: Receiver) -> None:
    quiet = await client.post({"type": "noop", "callback_url": receiver.url, "callback_events": ["job.failed"]})
    _, request = await told(client, receiver, callback_events=["job.succeeded", "job.expired"])
    await client.finished(quiet.json()["id"])
    assert json.loads(request.body)["type"] == "job.succeeded"
    assert await deliveries_of(client, quiet.json()) == []
    assert len(receiver.requests) == 1
    _, request = await told(client, receiver, **FAILS, callback_events=["job.failed"])
    await receiver.wait_for(2)
    assert json.loads(receiver.requests[1].body)["type"] == "job.failed"


async def test_a_retry_has_the_same_id_and_body_and_its_own_time(client: Client, receiver: Receiver) -> None:
    answers = [Answer(500), Answer(204)]
    receiver.respond = lambda _: answers.pop(0)
    job, _ = await told(client, receiver)
    first, second = await receiver.wait_for(2, 40)

    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert int(second.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    assert 5 <= second.at - first.at < 20
    secret = (await secrets(client))["secret"]
    assert verify(first, secret) == verify(second, secret)
    assert (await delivery_finished(client, job))["status"] == "succeeded"
    assert len(receiver.requests) == 2


async def test_two_jobs_have_two_ids(client: Client, receiver: Receiver) -> None:
    await told(client, receiver)
    await told(client, receiver)
    one, two = await receiver.wait_for(2)
    assert one.headers["webhook-id"] != two.headers["webhook-id"]


async def test_410_gone_ends_it(client: Client, receiver: Receiver) -> None:
    receiver.respond = lambda _: Answer(410)
    job, _ = await told(client, receiver)
    delivery = await delivery_finished(client, job)
    assert (delivery["status"], delivery["attempt"]) == ("failed", 1)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_a_failure_and_not_followed(client: Client, receiver: Receiver, status: int) -> None:
    async with Receiver() as elsewhere:
        receiver.respond = lambda _: Answer(status, headers={"location": f"{elsewhere.url}/there"})
        job, _ = await told(client, receiver)
        await client.finished(job["id"])
        (delivery,) = await deliveries_of(client, job)
        delivery = await client.until_status(delivery["id"], "failed", "retrying")
        assert delivery["attempt"] == 1
        assert elsewhere.requests == []


async def test_the_other_answers_are_tried_again_on_the_schedule(client: Client, receiver: Receiver) -> None:
    """Everything but 2xx and 410, on 5 s and then the rest of the schedule."""
    statuses = [400, 401, 403, 404, 422, 429, 500, 503]
    receiver.respond = lambda request: Answer(int(request.path.removeprefix("/")))
    jobs = {
        status: (await client.post({"type": "noop", "callback_url": f"{receiver.url}/{status}"})).json()
        for status in statuses
    }
    paths = {f"/{status}" for status in statuses}
    await until(
        lambda: paths <= {one.path for one in receiver.requests}, 60, "each, though the host may be held a while"
    )
    for status, job in jobs.items():
        await client.finished(job["id"])
        (delivery,) = await deliveries_of(client, job)
        tried = await client.until_status(delivery["id"], "failed", "retrying", "queued", "running", timeout=10)
        deferred = [each for each in await client.attempts(delivery["id"]) if each["outcome"] == "deferred"]
        assert 10 <= tried["max_attempts"] <= 10 + len(deferred), status
        await client.until_status(delivery["id"], "retrying", timeout=10)


async def test_during_a_rotation_both_secrets_sign(hooks: Client, receiver: Receiver) -> None:
    before = await secrets(hooks)
    rotated = await hooks.http.post("/webhook-secret/rotate")
    assert rotated.status_code == 200
    after = await secrets(hooks)
    assert rotated.json() == after
    assert after["secret"].startswith("whsec_")
    assert after["secret"] != before["secret"]
    assert before["secret"] in json.dumps(after["previous"])

    _, request = await told(hooks, receiver)
    assert len(request.headers["webhook-signature"].split(" ")) >= 2
    assert all(signature.startswith("v1,") for signature in request.headers["webhook-signature"].split(" "))
    assert verify(request, after["secret"]) == verify(request, before["secret"])


async def test_a_secret_never_asked_for_signs_as_well(hooks: Client, receiver: Receiver) -> None:
    _, request = await told(hooks, receiver)
    verify(request, (await secrets(hooks))["secret"])


FORBIDDEN = [
    "http://10.0.0.1/",
    "http://169.254.169.254/latest/meta-data",
    "http://0.0.0.0/",
    "http://224.0.0.1/",
    "http://[::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[64:ff9b::a00:1]/",
    "http://[fe80::1]/",
    "http://167772161/",
    "http://0x0a000001/",
    "http://10.1/",
    "http://1.1.1.1@10.0.0.1/",
    "http://user:pass@example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "//example.com/",
    "http:/example.com/",
    "http://",
    "example.com",
    "http://exa mple.com/",
    "http://example.com/\r\nx: y",
    "http://example.com:99999/",
    "",
]


@pytest.mark.parametrize("url", FORBIDDEN)
async def test_a_url_that_is_wrong_on_its_face_is_422(client: Client, url: str) -> None:
    check_problem(await client.post({"type": "noop", "delay": 3600, "callback_url": url}), 422, "/callback_url")
    body = {"type": "http.request", "delay": 3600, "payload": {"url": url}}
    check_problem(await client.post(body), 422, "/payload/url")


async def test_a_receiver_that_is_away_does_not_fail_the_job(client: Client, receiver: Receiver) -> None:
    await receiver.stop()
    answer = await client.post({"type": "noop", "callback_url": receiver.url})
    assert (await client.finished(answer.json()["id"]))["status"] == "succeeded"
    (delivery,) = await deliveries_of(client, answer.json())
    retrying = await client.until_status(delivery["id"], "retrying")
    assert retrying["error"]["class"] == "transient"
    await receiver.start()
    await receiver.wait_for(1, 40)
