"""The failure table for handlers, through HTTP, with the number of calls that the target saw. Contract, section 5.

For `http.request` it is in `handlers/test_http_request.py`.
"""

import time
from email.utils import formatdate
from typing import Any

import pytest

from tests.support.clients.client import Client
from tests.support.servers.ports import free_port
from tests.support.servers.receiver import HANG_UP, Answer, Receiver
from tests.support.service.running_service import Running


@pytest.fixture(scope="module")
def client(running: Running) -> Client:
    return running.client()


STATUSES = [
    *((status, {}, "transient", 2) for status in (500, 502, 504, 408, 425, 503)),
    (429, {}, "rate_limited", 2),
    (503, {"retry-after": "1"}, "rate_limited", 2),
    *((status, {}, "invalid", 1) for status in (400, 409, 410, 422, 301, 307)),
    *((status, {}, "auth", 1) for status in (401, 403, 407)),
    (404, {}, "not_found", 1),
]


@pytest.mark.parametrize(("status", "headers", "failure", "calls"), STATUSES, ids=lambda value: str(value))
async def test_a_status_error_of_httpx(
    client: Client, target: Receiver, status: int, headers: dict[str, str], failure: str, calls: int
) -> None:
    target.respond = lambda _: Answer(status, headers=headers)
    job = await client.finish("calls", {"url": f"{target.url}/?token=Canary"})
    assert (job["status"], job["error"]["class"], job["attempt"]) == ("failed", failure, calls)
    assert len(target.requests) == calls
    assert str(status) in job["error"]["message"]
    assert "Canary" not in job["error"]["message"]


EXCEPTIONS = [
    ("AuthError", "auth", 1),
    ("InvalidJob", "invalid", 1),
    ("NotFound", "not_found", 1),
    ("RateLimited", "rate_limited", 2),
    ("TransientError", "transient", 2),
    ("ValueError", "transient", 2),
    ("SystemExit", "transient", 2),
    ("CancelledError", "transient", 2),
]


@pytest.mark.parametrize(("raises", "failure", "calls"), EXCEPTIONS)
@pytest.mark.parametrize("type_", ["calls", "calls.thread"])
async def test_an_exception_of_a_handler(
    client: Client, target: Receiver, type_: str, raises: str, failure: str, calls: int
) -> None:
    job = await client.finish(type_, {"url": target.url, "raises": raises})
    assert (job["status"], job["error"]["class"], job["attempt"]) == ("failed", failure, calls)
    assert len(target.requests) == calls
    attempts = await client.attempts(job["id"])
    assert [attempt["outcome"] for attempt in attempts] == [failure] * calls
    assert all("in call\n" in attempt["traceback"] for attempt in attempts)


async def test_errors_before_an_answer(client: Client, target: Receiver) -> None:
    refused = await client.finish("calls", {"url": f"http://127.0.0.1:{free_port()}/"})
    assert (refused["error"]["class"], refused["attempt"]) == ("transient", 2)
    target.respond = lambda _: HANG_UP
    cut = await client.finish("calls", {"url": target.url})
    assert (cut["error"]["class"], len(target.requests)) == ("transient", 2)
    target.respond = lambda _: Answer(after=5)
    late = await client.finish("calls", {"url": target.url})
    assert (late["error"]["class"], len(target.requests)) == ("timeout", 4)
    for url in ("ftp://127.0.0.1/", "http://a:b", "no-url"):
        wrong = await client.finish("calls", {"url": url})
        assert (wrong["error"]["class"], wrong["attempt"]) == ("invalid", 1), url


@pytest.mark.parametrize(
    ("type_", "end", "failure", "calls", "result"),
    [
        ("calls", "failed", "not_found", 1, None),
        ("calls.retry", "failed", "not_found", 2, None),
        ("calls.skip", "succeeded", None, 1, {"skipped": True}),
    ],
)
async def test_not_found_has_the_effect_that_its_type_chose(
    client: Client, target: Receiver, type_: str, end: str, failure: str | None, calls: int, result: Any
) -> None:
    target.respond = lambda _: Answer(404)
    job = await client.finish(type_, {"url": target.url})
    assert (job["status"], (job["error"] or {}).get("class"), job["result"]) == (end, failure, result)
    assert len(target.requests) == calls


async def test_the_chosen_effect_is_shown(client: Client) -> None:
    types = {each["name"]: each for each in (await client.get("/job-types")).json()["items"]}
    chosen = {name: types[name]["not_found"] for name in ("calls", "calls.retry", "calls.skip", "http.request")}
    assert chosen == {"calls": "fail", "calls.retry": "retry", "calls.skip": "skip", "http.request": "fail"}


@pytest.mark.parametrize("form", ["seconds", "text", "date"])
async def test_a_retry_waits_for_the_retry_after_of_the_handler(client: Client, target: Receiver, form: str) -> None:
    """A date has whole seconds, so at least 2 of the 3 s remain."""
    asked = {"seconds": 1.5, "text": "2", "date": formatdate(time.time() + 3, usegmt=True)}[form]
    await client.finish("calls", {"url": target.url, "raises": "RateLimited", "retry_after": asked})
    first, second = target.requests
    assert second.at - first.at >= 1.5
