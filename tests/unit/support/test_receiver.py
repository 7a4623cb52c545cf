"""The HTTP receiver remembers what it was sent, answers as told, and misbehaves as told."""

import httpx
import pytest

from tests.support.servers.receiver import HANG_UP, Answer, Receiver


async def test_remembers_requests_as_they_came() -> None:
    async with Receiver() as receiver, httpx.AsyncClient() as client:
        await client.post(f"{receiver.url}/a?b=c", content=b"\x00raw", headers={"X-One": "1"})
        await client.put(f"{receiver.url}/d", content=_chunks())
        first, second = await receiver.wait_for(2)
    assert (first.method, first.path, first.body, first.headers["x-one"]) == ("POST", "/a?b=c", b"\x00raw", "1")
    assert (second.method, second.body) == ("PUT", b"onetwo")


async def test_answers_by_function() -> None:
    def respond(request: object) -> Answer:
        return Answer(503, b"busy", {"Retry-After": "7"}) if len(receiver.requests) == 1 else Answer(410)

    async with Receiver(respond) as receiver, httpx.AsyncClient() as client:
        busy, gone = [await client.get(receiver.url) for _ in range(2)]
    assert (busy.status_code, busy.text, busy.headers["retry-after"]) == (503, "busy", "7")
    assert gone.status_code == 410


@pytest.mark.parametrize("answer", [HANG_UP, Answer(raw=b"no http at all\r\n\r\n")])
async def test_misbehaves(answer: Answer) -> None:
    async with Receiver(lambda _: answer) as receiver, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(receiver.url)


async def test_says_what_it_waited_for_in_vain() -> None:
    async with Receiver() as receiver, httpx.AsyncClient() as client:
        await client.get(f"{receiver.url}/seen")
        with pytest.raises(AssertionError, match="/seen"):
            await receiver.wait_for(2, timeout=0.1)


async def _chunks():  # type: ignore[no-untyped-def]
    yield b"one"
    yield b"two"
