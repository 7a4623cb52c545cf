"""`http.request`: the outcome for each answer of the target. Contract, section 5."""

import json
import time
from email.utils import formatdate
from typing import Any

import pytest

from tests.support.clients.client import Client, Job, seconds_between
from tests.support.servers.ports import free_port
from tests.support.servers.receiver import HANG_UP, Answer, Receiver, Request

TWICE = {"max_attempts": 2, "schedule": [0.1], "jitter": 0}


async def called(client: Client, target: Receiver, retry: Any = TWICE, **payload: Any) -> Job:
    return await client.finish("http.request", {"url": f"{target.url}/x?y=z", **payload}, retry=retry)


TABLE = [
    *((status, {}, "succeeded", None, 1) for status in (200, 201, 202, 204, 206, 299)),
    *((status, {}, "failed", "transient", 2) for status in (500, 501, 502, 503, 504, 599, 408, 425)),
    (429, {}, "failed", "rate_limited", 2),
    (429, {"retry-after": "1"}, "failed", "rate_limited", 2),
    (503, {"retry-after": "1"}, "failed", "rate_limited", 2),
    *((status, {}, "failed", "invalid", 1) for status in (400, 402, 405, 406, 409, 410, 411, 413, 415, 418, 422, 451)),
    *((status, {"location": "/there"}, "failed", "invalid", 1) for status in (300, 301, 302, 303, 304, 307, 308)),
    *((status, {}, "failed", "auth", 1) for status in (401, 403, 407)),
    (404, {}, "failed", "not_found", 1),
]


@pytest.mark.parametrize(("status", "headers", "end", "failure", "calls"), TABLE, ids=lambda value: str(value))
async def test_the_status_decides(
    client: Client, target: Receiver, status: int, headers: dict[str, str], end: str, failure: str | None, calls: int
) -> None:
    target.respond = lambda _: Answer(status, headers=headers)
    job = await called(client, target)
    assert job["status"] == end
    assert (job["error"] or {}).get("class") == failure
    assert job["attempt"] == calls
    assert [request.path for request in target.requests] == ["/x?y=z"] * calls
    assert [(each["error"] or {}).get("class") for each in await client.attempts(job["id"])] == [failure] * calls
    if failure:
        assert str(status) in job["error"]["message"]


async def test_the_result(client: Client, target: Receiver) -> None:
    target.respond = lambda _: Answer(201, b'{"a": "\xc3\xbc"}', {"x-y": "z", "content-type": "application/json"})
    result = (await called(client, target))["result"]
    assert result["status_code"] == 201
    assert {name.lower(): value for name, value in dict(result["headers"]).items()}["x-y"] == "z"
    assert "ü" in json.dumps(result["body"], ensure_ascii=False)


async def test_what_is_sent(client: Client, target: Receiver) -> None:
    await called(client, target, method="PUT", headers={"X-Mine": "1"}, json={"n": [1, None]})
    await called(client, target, method="POST", body="plain ü", headers={"Content-Type": "text/plain"})
    await called(client, target)
    put, post, get = target.requests
    assert (put.method, put.headers["x-mine"], json.loads(put.body)) == ("PUT", "1", {"n": [1, None]})
    assert put.headers["content-type"] == "application/json"
    assert (post.method, post.body.decode(), post.headers["content-type"]) == ("POST", "plain ü", "text/plain")
    assert (get.method, get.body) == ("GET", b"")
    assert get.headers["host"] == f"127.0.0.1:{target.port}"
    assert "authorization" not in get.headers


EXPECTED: list[tuple[int, int | list[int], str | None, int]] = [
    (404, 404, None, 1),
    (404, [200, 404], None, 1),
    (500, 500, None, 1),
    (301, [301], None, 1),
    (200, [201], "transient", 2),
    (404, [200], "not_found", 1),
    (500, [404], "transient", 2),
    (422, [404], "invalid", 1),
]


@pytest.mark.parametrize(("status", "expected", "failure", "calls"), EXPECTED, ids=lambda value: str(value))
async def test_expect_status_names_what_is_success(
    client: Client, target: Receiver, status: int, expected: int | list[int], failure: str | None, calls: int
) -> None:
    target.respond = lambda _: Answer(status, headers={"location": "/there"})
    job = await called(client, target, expect_status=expected)
    assert job["status"] == ("failed" if failure else "succeeded")
    assert (job["error"] or {}).get("class") == failure
    assert (job["result"] or {}).get("status_code") == (None if failure else status)
    assert len(target.requests) == job["attempt"] == calls


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_waited_for(client: Client, target: Receiver, form: str) -> None:
    """A date has whole seconds, so at least 2 of the 3 s are left."""

    def first_not(_: Request) -> Answer:
        value = "2" if form == "seconds" else formatdate(time.time() + 3, usegmt=True)
        return Answer(429, headers={"retry-after": value}) if len(target.requests) == 1 else Answer(200)

    target.respond = first_not
    job = await called(client, target)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    first, second = target.requests
    assert second.at - first.at >= 1.9


async def test_retry_after_is_followed_for_24_h_at_most(client: Client, target: Receiver) -> None:
    target.respond = lambda _: Answer(503, headers={"retry-after": "99999999"})
    job = await client.submit("http.request", {"url": target.url}, retry={**TWICE, "schedule": [1]})
    retrying = await client.until_status(job["id"], "retrying")
    (attempt,) = await client.attempts(job["id"])
    wait = seconds_between(attempt["finished_at"], retrying["run_at"])
    assert 86_000 <= wait <= 86_400 + 5


async def test_the_schedule_counts_when_it_is_later_than_retry_after(client: Client, target: Receiver) -> None:
    target.respond = lambda _: Answer(429, headers={"retry-after": "1"})
    job = await client.submit("http.request", {"url": target.url}, retry={"schedule": [500], "jitter": 0})
    retrying = await client.until_status(job["id"], "retrying")
    (attempt,) = await client.attempts(job["id"])
    assert seconds_between(attempt["finished_at"], retrying["run_at"]) >= 499


@pytest.mark.parametrize("value", ["-5", "soon", "1e9", "", "0", "9" * 400])
async def test_a_strange_retry_after_does_no_harm(client: Client, target: Receiver, value: str) -> None:
    answers = [Answer(429, headers={"retry-after": value}), Answer(200)]
    target.respond = lambda _: answers.pop(0)
    job = await client.submit("http.request", {"url": target.url}, retry=TWICE)
    await client.until_status(job["id"], "retrying", "succeeded")


async def test_connection_errors_are_transient(client: Client, target: Receiver) -> None:
    nobody = {"url": f"http://127.0.0.1:{free_port()}/"}
    refused = await client.finish("http.request", nobody, retry=TWICE)
    assert (refused["status"], refused["error"]["class"], refused["attempt"]) == ("failed", "transient", 2)

    target.respond = lambda _: HANG_UP
    job = await called(client, target)
    assert (job["status"], job["error"]["class"], len(target.requests)) == ("failed", "transient", 2)

    target.respond = lambda _: Answer(raw=b"SSH-2.0-OpenSSH_9.6\r\n")
    job = await called(client, target)
    assert (job["status"], job["error"]["class"]) == ("failed", "transient")


async def test_a_name_that_does_not_exist_is_transient(client: Client) -> None:
    job = await client.finish("http.request", {"url": "http://nothing.invalid/"}, retry=TWICE)
    assert (job["status"], job["error"]["class"]) == ("failed", "transient")


async def test_a_target_that_does_not_answer_in_time(client: Client, target: Receiver) -> None:
    target.respond = lambda _: Answer(after=60)
    slow = await called(client, target, timeout=0.5)
    assert (slow["status"], slow["attempt"]) == ("failed", 2)
    assert slow["error"]["class"] in ("timeout", "transient")
    body = {"url": target.url, "timeout": 300}
    cut = await client.finish("http.request", body, timeout=0.5, retry={"max_attempts": 1})
    assert (cut["status"], cut["error"]["class"]) == ("failed", "timeout")


async def test_a_body_beyond_the_cap_does_not_fail_the_job_nor_grow_it(client: Client, target: Receiver) -> None:
    target.respond = lambda _: Answer(200, b"x" * 3_000_000)
    job = await called(client, target)
    assert job["status"] == "succeeded"
    assert len(json.dumps(job["result"])) <= 256 * 1024


async def test_a_body_that_is_no_text(client: Client, target: Receiver) -> None:
    target.respond = lambda _: Answer(200, b"\x00\xff\xfe\x00" * 10)
    assert (await called(client, target))["status"] == "succeeded"


async def test_a_failure_tells_nothing_of_the_payload(client: Client, target: Receiver) -> None:
    target.respond = lambda _: Answer(400)
    job = await called(client, target, headers={"Authorization": "Bearer CanarySecret"})
    assert "CanarySecret" not in json.dumps(job["error"])
