"""`Egress`: what it sends, which addresses it can be made to reach, and many calls at once.

Positive cases allow loopback. A guard's test runs without, next to a socket that must see no connection.
"""

import asyncio
import builtins
import logging
from types import ModuleType
from typing import Any

import pytest

from accepted.context import HttpAnswer
from accepted.domain.failures import InvalidJob, TargetTimeout, TransientError
from accepted.domain.network.addresses import EgressAllow
from accepted_worker.outbound.egress import MAX_IN_FLIGHT
from tests.support.bad_urls import words
from tests.support.servers.scripted_receiver import (
    LOOPBACK,
    OK,
    SECONDS,
    Answers,
    StartReceiver,
    an_egress,
    call,
    replies,
)

# What is sent


async def test_request_on_the_wire(receiver: StartReceiver) -> None:
    target = await receiver()
    answer = await call(f"http://localhost:{target.port}/a?b=c#d", method="POST", headers={"X-A": "1"}, content=b"body")
    assert answer == HttpAnswer(200, [("Content-Length", "2")], b"hi", False)
    head, *lines = target.requests[0].decode().split("\r\n")
    assert head == "POST /a?b=c HTTP/1.1"
    host = f"Host: localhost:{target.port}"
    assert {host, "Accept-Encoding: identity", "X-A: 1", "Content-Length: 4"} <= set(lines)
    assert sum(line.lower().startswith("host:") for line in lines) == 1


async def test_a_call_looks_for_no_module(receiver: StartReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not installed is looked for on the disk, each time that it is imported."""
    target = await receiver()
    await call(target.url)
    asked: list[str] = []
    load = builtins.__import__

    def noted(name: str, *others: Any) -> ModuleType:
        asked.append(name)
        return load(name, *others)

    monkeypatch.setattr(builtins, "__import__", noted)
    await call(target.url)
    assert "sniffio" not in asked


async def test_an_ipv6_literal_is_named_in_brackets(receiver: StartReceiver) -> None:
    target = await receiver()
    await call(f"http://[::ffff:127.0.0.1]:{target.port}/")
    assert f"Host: [::ffff:7f00:1]:{target.port}".encode() in target.requests[0]


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "get", "G ET", "GET\r\n"])
async def test_methods_not_to_be_sent(receiver: StartReceiver, method: str) -> None:
    target = await receiver()
    with pytest.raises(InvalidJob):
        await call(target.url, method=method)
    assert target.connections == 0


BAD_HEADERS = [
    *(("Host", "x"), ("content-length", "1"), ("Transfer-Encoding", "chunked"), ("Proxy-Authorization", "x")),
    *(("X", "a\r\nb: c"), ("X", "é"), ("X", " a"), ("X\n", "a"), ("", "a"), ("Accept-Encoding", "gzip")),
]


@pytest.mark.parametrize("header", BAD_HEADERS)
async def test_headers_not_to_be_sent(receiver: StartReceiver, header: tuple[str, str]) -> None:
    target = await receiver()
    with pytest.raises(InvalidJob):
        await call(target.url, headers=dict([header]))
    assert target.connections == 0


# Which addresses are reached


LOOPBACK_SPELLINGS = words("""
127.0.0.1 127.1 0x7f.1 0x7f000001 2130706433 017700000001 0 0.0.0.0 127.0.0.1. localhost
LOCALHOST. a.localhost [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [64:ff9b::127.0.0.1]
①②⑦.⓪.⓪.① 127。0。0。1 １２７.0.0.1
""")
FORBIDDEN_ANSWERS = [
    *(["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["8.8.8.8"] * 9 + ["127.0.0.1"]),
    *([each] for each in words("::1 10.0.0.1 169.254.169.254 ::ffff:127.0.0.1 64:ff9b::7f00:1 fe80::1%1")),
]


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
async def test_no_spelling_of_loopback_is_reached(receiver: StartReceiver, host: str) -> None:
    target = await receiver()
    with pytest.raises(InvalidJob):
        await call(f"http://{host}:{target.port}/", allow=EgressAllow())
    assert target.connections == 0


@pytest.mark.parametrize("addresses", FORBIDDEN_ANSWERS)
async def test_one_forbidden_address_of_a_name_refuses_the_call(receiver: StartReceiver, addresses: list[str]) -> None:
    target = await receiver()
    with pytest.raises(InvalidJob, match=r"^forbidden address$"):
        await call(f"http://a.example:{target.port}/", allow=EgressAllow(), resolve=Answers(addresses))
    assert target.connections == 0


async def test_the_address_connected_to_is_the_address_checked(receiver: StartReceiver) -> None:
    """A name that rebinds after the check: a second lookup would reach the other socket."""
    target = await receiver()
    rebinding = Answers(["127.0.0.2"], ["127.0.0.1"])
    with pytest.raises(TransientError):
        await call(f"http://a.example:{target.port}/", allow=LOOPBACK, resolve=rebinding)
    assert (rebinding.asked, target.connections) == (1, 0)


async def test_every_call_checks_anew(receiver: StartReceiver) -> None:
    target = await receiver()
    allow = EgressAllow.parse("127.0.0.1")
    async with an_egress(allow, resolve=Answers(["127.0.0.1"], ["127.0.0.2"])) as egress:
        url = f"http://a.example:{target.port}/"
        await egress.send("GET", url, {}, b"", timeout=SECONDS, max_bytes=10)
        with pytest.raises(InvalidJob, match="forbidden address"):
            await egress.send("GET", url, {}, b"", timeout=SECONDS, max_bytes=10)
    assert target.connections == 1


async def test_an_allowed_host_opens_what_it_resolves_to(receiver: StartReceiver) -> None:
    target = await receiver()
    allow = EgressAllow.parse("my.host")
    assert (await call(f"http://my.host:{target.port}/", allow=allow, resolve=Answers(["127.0.0.1"]))).body == b"hi"


async def test_an_address_that_does_not_answer_is_passed_over(receiver: StartReceiver) -> None:
    target = await receiver()
    dead_first = Answers(["127.0.0.2", "127.0.0.1"])
    assert (await call(f"http://a.example:{target.port}/", resolve=dead_first)).body == b"hi"


async def test_a_closed_and_an_open_forbidden_port_look_the_same(receiver: StartReceiver) -> None:
    target = await receiver()
    texts = set()
    for url in (target.url, "http://127.0.0.1:1/", "http://10.255.255.1/", "http://localhost:1/"):
        with pytest.raises(InvalidJob) as refusal:
            await call(url, allow=EgressAllow())
        texts.add(str(refusal.value))
    assert texts == {"forbidden address"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(receiver: StartReceiver, status: int) -> None:
    inner = await receiver()
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {inner.url}\r\nContent-Length: 0\r\n\r\n"
    outer = await receiver(replies(head.encode()))
    assert (await call(outer.url)).status_code == status
    assert inner.connections == 0


async def test_proxy_variables_are_ignored(receiver: StartReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    target, proxy = await receiver(), await receiver()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    await call(target.url)
    assert (target.connections, proxy.connections) == (1, 0)


# The process around it


async def test_hundreds_at_a_time_share_one_lookup(receiver: StartReceiver) -> None:
    """All calls are in flight at once: the target answers none before it has seen them all."""
    count = MAX_IN_FLIGHT
    everybody_here, here = asyncio.Event(), 0

    async def together(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal here
        here += 1
        if here == count:
            everybody_here.set()
        await everybody_here.wait()
        writer.write(OK)

    target = await receiver(together)
    resolve = Answers(["127.0.0.1"])
    async with an_egress(resolve=resolve) as egress:
        url = f"http://a.example:{target.port}/"
        calls = [egress.send("GET", url, {}, b"", timeout=SECONDS, max_bytes=9) for _ in range(count)]
        answers = await asyncio.gather(*calls)
    assert all(answer.body == b"hi" for answer in answers)
    assert resolve.asked < count


async def test_a_call_that_gives_up_does_not_fail_those_that_share_its_lookup(
    receiver: StartReceiver,
) -> None:
    target, known = await receiver(), asyncio.Event()

    async def resolve(host: str, port: int) -> list[str]:
        await known.wait()
        return ["127.0.0.1"]

    async with an_egress(resolve=resolve) as egress:
        url = f"http://a.example:{target.port}/"
        patient = asyncio.ensure_future(egress.send("GET", url, {}, b"", timeout=SECONDS, max_bytes=9))
        with pytest.raises(TargetTimeout):
            await egress.send("GET", url, {}, b"", timeout=0.1, max_bytes=9)
        known.set()
        assert (await patient).status_code == 200


async def test_no_url_and_no_header_is_logged(receiver: StartReceiver, caplog: pytest.LogCaptureFixture) -> None:
    target = await receiver(replies(b"HTTP/1.1 204 No Content\r\nSet-Cookie: canary\r\n\r\n"))
    caplog.set_level(logging.DEBUG)
    await call(target.url + "?token=canary", headers={"Authorization": "canary"})
    assert "canary" not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith(("httpcore", "httpx"))]
