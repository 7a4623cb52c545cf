"""The job type `http.request` on real sockets: what is sent, and the result or failure of each answer."""

import pytest

from accepted.domain.failures import HandlerError, InvalidJob, TransientError
from accepted.domain.network.addresses import EgressAllow
from accepted_worker.attempt.values import result_of, size_of
from accepted_worker.handlers.http_request import MAX_BODY_BYTES, HttpRequest, perform
from tests.support.servers.scripted_receiver import LOOPBACK, StartReceiver, an_egress, replies

MOST = 256 * 1024


async def run(url: str, allow: EgressAllow = LOOPBACK, most: int = MOST, **payload: object) -> dict[str, object]:
    async with an_egress(allow) as egress:
        return await perform(HttpRequest.model_validate({"url": url, **payload}), egress, most)


async def test_the_result_of_a_job(receiver: StartReceiver) -> None:
    head = b"HTTP/1.1 201 Created\r\nX-A: 1\r\nx-a: 2\r\nETag: e\r\nContent-Length: 5\r\n\r\n"
    target = await receiver(replies(head, b"\xffa\0\xc3\xa9"))
    assert await run(target.url, method="POST", json={"a": 1}) == {
        "status_code": 201,
        "headers": {"x-a": "1, 2", "etag": "e", "content-length": "5"},
        "body": "\ufffda\ufffdé",
        "truncated": False,
    }
    assert b"Content-Type: application/json\r\n" in target.requests[0]


async def test_a_long_result_is_cut_between_characters(receiver: StartReceiver) -> None:
    body = b"x" + "é".encode() * MAX_BODY_BYTES
    target = await receiver(replies(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body))
    result = await run(target.url)
    assert result["truncated"]
    assert result["body"] == "x" + "é" * ((MAX_BODY_BYTES - 1) // 2)


@pytest.mark.parametrize("most", [MOST, 1024])
@pytest.mark.parametrize("part", [b"\x01", b'"', "\u00e9\x1b".encode(), b"x"])
async def test_a_result_fits_as_json(receiver: StartReceiver, most: int, part: bytes) -> None:
    body = part * MAX_BODY_BYTES
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body)
    head += b"".join(b'X-%d: \xe9"\r\n' % number for number in range(60))
    target = await receiver(replies(head + b"\r\n", body))
    result = await run(target.url, most=most)
    assert body.decode().startswith(str(result["body"]))
    assert result["truncated"] or result["body"] == body.decode()
    size = len(result_of(result, most).encode())
    if size_of(body[:MAX_BODY_BYTES].decode(errors="ignore")) > most:
        assert size > most - 8, "no more is cut off than has to be"


async def test_a_given_content_type_stands(receiver: StartReceiver) -> None:
    target = await receiver()
    await run(target.url, method="PUT", body="<a/>", headers={"content-type": "application/xml"})
    assert target.requests[0].lower().count(b"content-type") == 1


@pytest.mark.parametrize(
    ("status", "failure"), [(302, "invalid"), (401, "auth"), (404, "not_found"), (500, "transient")]
)
async def test_the_status_becomes_the_failure_class(receiver: StartReceiver, status: int, failure: str) -> None:
    target = await receiver(replies(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status))
    with pytest.raises(HandlerError) as caught:
        await run(target.url)
    assert caught.value.failure_class == failure


async def test_half_a_body_is_no_success(receiver: StartReceiver) -> None:
    target = await receiver(replies(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nh"))
    with pytest.raises(TransientError):
        await run(target.url)


@pytest.mark.parametrize(
    ("answer", "failure", "wait"),
    [(b"401 X\r\n", "auth", None), (b"503 X\r\nRetry-After: 7\r\n", "rate_limited", 7)],
)
async def test_the_status_decides_though_the_body_breaks_off(
    receiver: StartReceiver, answer: bytes, failure: str, wait: float | None
) -> None:
    target = await receiver(replies(b"HTTP/1.1 " + answer + b"Content-Length: 9\r\n\r\nhi"))
    with pytest.raises(HandlerError) as caught:
        await run(target.url)
    assert (caught.value.failure_class, caught.value.retry_after) == (failure, wait)


async def test_a_forbidden_address_is_invalid() -> None:
    with pytest.raises(InvalidJob, match="forbidden address"):
        await run("http://127.0.0.1:1/", EgressAllow())
