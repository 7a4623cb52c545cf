"""What the client does about failures: tries again where that is safe, within limits, and says what it did."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
import trustme

from accepted.client import errors
from accepted.client.errors import ClientError, RequestProblem, ServiceUnreachable
from tests.support.clients.either import EitherClient, either
from tests.support.servers.ports import free_port
from tests.support.servers.receiver import HANG_UP, Answer, Receiver, Request

JOB = {"id": "j1", "type": "noop", "status": "queued", "attempt": 0, "error": None}
ACCEPTED = Answer(202, json.dumps(JOB).encode())


def problem(status: int, slug: str = "it", retry_after: str = "", **more: Any) -> Answer:
    document = {"type": f"/problems/{slug}", "title": "Title", "status": status, "detail": "why", **more}
    headers = {"content-type": "application/problem+json", "x-request-id": "r1"}
    return Answer(
        status, json.dumps(document).encode(), headers | ({"retry-after": retry_after} if retry_after else {})
    )


def there(etag: str = '"e1"', **fields: Any) -> Answer:
    """The answer to a GET of a job, or a batch."""
    return Answer(200, json.dumps(JOB | fields).encode(), {"etag": etag} if etag else {})


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module", params=["blocking", "loop"])
async def client(request: pytest.FixtureRequest, service: Receiver) -> AsyncIterator[EitherClient]:
    async with either(request.param == "blocking", service.url, "acc_k", max_tries=3, max_seconds=20) as client:
        yield client


def in_turn(service: Receiver, *answers: Answer) -> None:
    """The last one answers all further requests."""
    numbers = count()

    def respond(_: Request) -> Answer:
        return answers[min(next(numbers), len(answers) - 1)]

    service.respond = respond
    service.requests.clear()


async def test_a_submission_is_sent_again_under_its_key(client: EitherClient, service: Receiver) -> None:
    in_turn(service, HANG_UP, Answer(502), ACCEPTED)
    assert (await client(lambda it: it.submit("noop", delay=1, queue=None))).id == "j1"
    keys = [request.headers["idempotency-key"] for request in service.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert len(keys[0]) == 36
    assert {request.body for request in service.requests} == {b'{"type":"noop","payload":{},"delay":1}'}
    assert service.requests[0].headers["authorization"] == "Bearer acc_k"

    in_turn(service, ACCEPTED)
    await client(lambda it: it.submit("noop", idempotency_key="mine"))
    await client(lambda it: it.submit("noop"))
    await client(lambda it: it.submit("noop", idempotency_key=""))
    sent = [request.headers["idempotency-key"] for request in service.requests]
    assert (sent[0], sent[2]) == ("mine", "")
    assert sent[1] not in ("mine", keys[0])


async def test_a_retry_waits_as_long_as_it_was_asked_to(client: EitherClient, service: Receiver) -> None:
    in_turn(service, problem(503, retry_after="1"), ACCEPTED)
    await client(lambda it: it.submit("noop"))
    first, second = (request.at for request in service.requests)
    assert second - first >= 1


async def test_the_end_of_the_tries_is_said_in_the_error(client: EitherClient, service: Receiver) -> None:
    in_turn(service, problem(503, "ledger-unavailable"))
    with pytest.raises(errors.ServiceUnavailable, match=r"503 Title: why\n.*3 tries in [\d.]+ s.* key k7") as refused:
        await client(lambda it: it.submit("noop", idempotency_key="k7"))
    assert (refused.value.tries, refused.value.idempotency_key, refused.value.request_id) == (3, "k7", "r1")
    assert len(service.requests) == 3

    in_turn(service, problem(429, retry_after="3600"))
    with pytest.raises(errors.TooManyRequests) as full:
        await client(lambda it: it.submit("noop"))
    assert full.value.retry_after == 3600
    assert len(service.requests) == 1, "an hour is longer than this client tries"

    in_turn(service, HANG_UP)
    with pytest.raises(ServiceUnreachable, match="3 tries") as gone:
        await client(lambda it: it.get("j1"))
    assert service.url in str(gone.value)


async def test_an_act_whose_answer_is_lost_is_repeated_and_found_done(client: EitherClient, service: Receiver) -> None:
    """A `retry` names the state of the job that it means."""
    for lost in (HANG_UP, Answer(502), problem(503)):
        in_turn(service, there(status="failed"), lost, problem(412), there(status="queued"))
        assert (await client(lambda it: it.retry("j1"))).status == "queued"
        assert [request.method for request in service.requests] == ["GET", "POST", "POST", "GET"]
        assert [request.headers.get("if-match") for request in service.requests] == [None, '"e1"', '"e1"', None]
        in_turn(service, lost, problem(409), there(status="cancelled"))
        assert (await client(lambda it: it.cancel("j1"))).status == "cancelled"
    in_turn(service, there(counts={"queued": 2}), HANG_UP, problem(409), there(counts={"cancelled": 2}))
    batch = await client(lambda it: it.get_batch("b1"))
    assert (await client(lambda _: batch.cancel())).counts == {"cancelled": 2}


async def test_an_act_that_was_not_done_is_refused(client: EitherClient, service: Receiver) -> None:
    in_turn(service, there(status="failed"), HANG_UP, problem(409), there(status="failed"))
    with pytest.raises(errors.ConflictingState):
        await client(lambda it: it.retry("j1"))
    in_turn(service, HANG_UP, problem(409), there(status="succeeded"))
    with pytest.raises(errors.ConflictingState):
        await client(lambda it: it.cancel("j1"))
    in_turn(service, problem(429), problem(409), there(status="cancelled"))
    with pytest.raises(errors.ConflictingState):
        await client(lambda it: it.cancel("j1"))
    assert len(service.requests) == 2, "the first was not carried out"


async def test_a_retry_of_what_cannot_be_read_is_repeated_only_if_it_was_not_carried_out(
    client: EitherClient, service: Receiver
) -> None:
    for unread in (problem(403), there(etag="")):
        for lost in (HANG_UP, Answer(504)):
            in_turn(service, unread, lost)
            with pytest.raises(ClientError):
                await client(lambda it: it.retry("j1"))
            assert len(service.requests) == 2, "it may run a second time"
        in_turn(service, unread, problem(429), ACCEPTED)
        await client(lambda it: it.retry("j1"))
        assert [request.path for request in service.requests[1:]] == ["/jobs/j1/retry"] * 2


@pytest.mark.parametrize("blocks", [True, False])
async def test_a_refused_connection_is_tried_again(blocks: bool) -> None:
    async with either(blocks, f"http://user:secret@127.0.0.1:{free_port()}/", max_tries=2) as client:
        with pytest.raises(ServiceUnreachable, match="2 tries") as away:
            await client(lambda it: it.cancel("j1"))
    assert "secret" not in str(away.value)


PROBLEMS: list[tuple[int, str, type[RequestProblem]]] = [
    (400, "malformed-request", errors.BadRequest),
    (401, "unauthenticated", errors.NotAuthenticated),
    (403, "forbidden", errors.NotPermitted),
    (404, "not-found", errors.NotThere),
    (409, "conflict", errors.ConflictingState),
    (410, "gone", errors.NoLongerThere),
    (413, "too-large", RequestProblem),
    (422, "invalid-request", errors.ValidationFailed),
    (422, "idempotency-key-reused", errors.KeyUsedBefore),
]


async def test_a_problem_is_an_error_of_its_own(client: EitherClient, service: Receiver) -> None:
    for status, slug, kind in PROBLEMS:
        in_turn(service, problem(status, slug, errors=[{"pointer": "/type", "detail": "is not known"}]))
        with pytest.raises(RequestProblem) as refused:
            await client(lambda it: it.submit("nope"))
        error = refused.value
        assert type(error) is kind
        assert str(error) == f"{status} Title: why\n  /type: is not known"
        assert (error.status, error.type, error.detail) == (status, f"/problems/{slug}", "why")
        assert [(one.pointer, one.detail) for one in error.errors] == [("/type", "is not known")]
        assert len(service.requests) == 1


async def test_what_is_not_the_service_is_named(client: EitherClient, service: Receiver) -> None:
    for answer in (Answer(200, b"<html>"), Answer(200, b"[]"), Answer(301)):
        in_turn(service, answer)
        with pytest.raises(errors.UnexpectedAnswer, match=f"{answer.status} without a JSON object"):
            await client(lambda it: it.get("j1"))
    in_turn(service, Answer(200, b'{"status": "ok"}'))
    with pytest.raises(errors.UnexpectedAnswer, match="POST /jobs: the answer has no id"):
        await client(lambda it: it.submit("noop"))
    in_turn(service, Answer(403, b"<html>"))
    with pytest.raises(errors.NotPermitted, match=r"^403 Forbidden$"):
        await client(lambda it: it.get("../admin?x=1"))
    assert service.requests[0].path == "/jobs/..%2Fadmin%3Fx%3D1"


async def test_events_go_on_where_their_stream_broke_off(client: EitherClient, service: Receiver) -> None:
    def stream(*frames: str, rest: str = "") -> Answer:
        text = "".join(f"{frame}\n\n" for frame in frames) + rest
        return Answer(200, text.encode(), {"content-type": "text/event-stream"})

    progress = 'event: progress\ndata: {"percent": 5, "message": "m", "attempt": 1}'
    running = 'id: 2\nevent: status\ndata: {"status": "running", "attempt": 1, "at": "2026-11-23T19:00:00.5Z"}'
    ended = 'id: 3\nevent: status\ndata: {"status": "succeeded", "attempt": 1, "at": "2026-11-23T19:00:01Z"}'
    in_turn(
        service, ACCEPTED, stream(running, ": waiting", progress, rest="id: 3\nevent: sta"), stream(progress, ended)
    )
    job = await client(lambda it: it.submit("noop"))
    found = await client.all(lambda _: job.events())
    assert [(one.type, one.status or one.percent) for one in found] == [
        ("status", "running"), ("progress", 5), ("status", "succeeded"),
    ]  # fmt: skip
    assert [request.headers.get("last-event-id") for request in service.requests[1:]] == [None, "2"]
    assert found[0].at.isoformat() == "2026-11-23T19:00:00.500000+00:00"

    revoked = 'event: problem\ndata: {"type": "/problems/unauthenticated", "title": "T", "status": 401, "detail": "d"}'
    in_turn(service, stream(running, revoked))
    with pytest.raises(errors.NotAuthenticated):
        await client.all(lambda _: job.events())
    in_turn(service, stream())
    with pytest.raises(ServiceUnreachable, match="ends before the job"):
        await client.all(lambda _: job.events())
    assert len(service.requests) == 3


@pytest.mark.parametrize("blocks", [True, False])
async def test_settings_that_cannot_be_sent_are_refused_without_showing_them(blocks: bool) -> None:
    with pytest.raises(ClientError, match="hidden") as wrong:
        async with either(blocks, "http://127.0.0.1:1", "acc_é"):
            pass
    assert "é" not in str(wrong.value)
    for url in ("http://user:secret@[::1", "127.0.0.1:8000"):
        async with either(blocks, url) as client:
            with pytest.raises(ClientError, match="is not a URL") as unusable:
                await client(lambda it: it.get("j1"))
            assert "secret" not in str(unusable.value)


@pytest.mark.parametrize("blocks", [True, False])
async def test_a_certificate_that_nobody_has_signed_is_refused(blocks: bool) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server, either(blocks, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", max_tries=1) as client:
        with pytest.raises(ServiceUnreachable, match="certificate"):
            await client(lambda it: it.submit("noop"))
