"""`Egress` against hostile answers: the deadline, the cap, broken HTTP, and TLS."""

import asyncio
import contextlib
import gzip
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from accepted.domain.failures import FailureClass, TargetTimeout, TransientError
from accepted_worker.outbound.exchange import HEAD_BYTES
from tests.support.servers.scripted_receiver import (  # fmt: skip
    OK,
    SECONDS,
    Answers,
    Script,
    StartReceiver,
    call,
    drips,
    floods,
    never_answers,
    replies,
    resets,
)

# What targets answer


async def test_a_long_body_is_cut(receiver: StartReceiver) -> None:
    size = 100 * 2**20
    target = await receiver(floods(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b"x" * 2**16))
    answer = await call(target.url, max_bytes=1000)
    assert (answer.body, answer.truncated) == (b"x" * 1000, True)
    await asyncio.wait_for(target.hung_up.wait(), SECONDS)


@pytest.mark.parametrize(("cap", "truncated"), [(1, True), (2, False), (3, False)])
async def test_a_body_is_truncated_only_if_something_is_missing(
    receiver: StartReceiver, cap: int, truncated: bool
) -> None:
    target = await receiver()
    answer = await call(target.url, max_bytes=cap)
    assert (answer.body, answer.truncated) == (b"hi"[:cap], truncated)


async def test_a_body_whose_first_chunk_fills_the_cap_is_still_truncated(receiver: StartReceiver) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    target = await receiver(replies(head, b"1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"))
    answer = await call(target.url, max_bytes=1)
    assert (answer.body, answer.truncated) == (b"h", True)


async def test_an_endless_chunked_body_is_cut(receiver: StartReceiver) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    target = await receiver(floods(head, b"1\r\nx\r\n" * 1000))
    assert (await call(target.url, max_bytes=1000)).body == b"x" * 1000


async def test_a_compressed_body_is_not_decoded(receiver: StartReceiver) -> None:
    bomb = gzip.compress(b"0" * 2**24)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    target = await receiver(replies(head, bomb))
    answer = await call(target.url)
    assert (answer.body, answer.truncated) == (bomb, False)


async def test_a_target_that_does_not_answer_meets_the_deadline(receiver: StartReceiver) -> None:
    target = await receiver(never_answers)
    with pytest.raises(TargetTimeout) as timeout:
        await call(target.url, timeout=0.5)
    assert timeout.value.failure_class is FailureClass.TIMEOUT
    await asyncio.wait_for(target.hung_up.wait(), SECONDS)


async def test_a_body_without_end_is_cut_at_the_deadline(receiver: StartReceiver) -> None:
    target = await receiver(drips)
    answer = await asyncio.wait_for(call(target.url, timeout=0.5, max_bytes=10**9), SECONDS)
    assert (answer.status_code, set(answer.body), answer.truncated) == (200, {ord("x")}, True)
    assert isinstance(answer.broken_off, TargetTimeout)
    await asyncio.wait_for(target.hung_up.wait(), SECONDS)


CHUNKED = b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi", 200),
        (CHUNKED + b"2\r\nhi\r\n", 401),
        (CHUNKED + b"2\r\nhi\r\nzz\r\n", 401),
        (CHUNKED + b"2\r\nhi\r\n1;" + b"x" * 2**20, 401),
    ],
    ids=["short", "no end", "no chunk", "no end of a chunk's head"],
)
async def test_a_body_that_breaks_off_is_an_answer(receiver: StartReceiver, answer: bytes, status: int) -> None:
    target = await receiver(replies(answer))
    came = await call(target.url)
    assert (came.status_code, came.body, came.truncated) == (status, b"hi", True)
    assert type(came.broken_off) is TransientError


async def test_the_deadline_covers_name_resolution() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        await asyncio.get_running_loop().create_future()
        return []

    with pytest.raises(TargetTimeout):
        await call("http://a.example/", timeout=0.2, resolve=resolve)


async def test_a_cancelled_call_hangs_up(receiver: StartReceiver) -> None:
    target = await receiver(never_answers)
    running = asyncio.ensure_future(call(target.url))
    await asyncio.wait_for(target.asked.wait(), SECONDS)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.wait_for(target.hung_up.wait(), SECONDS)


INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


@pytest.mark.parametrize(
    "script",
    [
        resets,
        replies(),
        replies(b"SSH-2.0-secret\r\n"),
        replies(b"hello"),
        replies(b"HTTP/1.1 secret OK\r\n\r\n"),
        replies(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhi"),
        replies(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**20 + b"\r\n\r\n"),
        floods(b"", INTERIM * 1000),
    ],
    ids=["RST", "EOF", "SSH", "HTTP/0.9", "status", "length", "headers", "1xx"],
)
async def test_a_broken_answer_is_transient_and_tells_no_url(receiver: StartReceiver, script: Script) -> None:
    target = await receiver(script)
    with pytest.raises(TransientError) as failure:
        await call(target.url + "secret-path")
    assert type(failure.value) is TransientError
    assert "secret" not in str(failure.value)
    assert str(target.port) not in str(failure.value)


async def test_interim_answers_are_passed_over(receiver: StartReceiver) -> None:
    target = await receiver(replies(INTERIM * 3 + OK))
    assert (await call(target.url)).status_code == 200
    assert len(INTERIM * 3 + OK) < HEAD_BYTES


@pytest.mark.parametrize("resolve", [Answers([]), Answers(["no address"])])
async def test_a_name_without_addresses_is_transient(resolve: Answers) -> None:
    with pytest.raises(TransientError):
        await call("http://a.example/", resolve=resolve)


async def test_a_name_that_does_not_resolve_is_transient() -> None:
    with pytest.raises(TransientError):
        await call("http://nowhere.invalid/")


async def test_a_refused_connection_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(TransientError):
        await call(f"http://127.0.0.1:{port}/")


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for `a.example`, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "a.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", path, "-out", f"{path}.crt", "-days", "2", "-subj", "/CN=a.example"),
            *("-addext", "subjectAltName=DNS:a.example"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


async def test_a_self_signed_certificate_is_a_failure(receiver: StartReceiver, server_tls: ssl.SSLContext) -> None:
    target = await receiver(context=server_tls)
    with pytest.raises(TransientError, match="TLS"):
        await call(f"https://a.example:{target.port}/", resolve=Answers(["127.0.0.1"]))
    assert target.requests == []


async def test_the_certificate_is_checked_against_the_name(
    receiver: StartReceiver, server_tls: ssl.SSLContext, certificate: Path
) -> None:
    asked_for: list[str] = []
    server_tls.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    target = await receiver(context=server_tls)
    trusting = ssl.create_default_context(cafile=certificate)
    loopback = Answers(["127.0.0.1"])
    url = f"https://a.example.:{target.port}/"
    assert (await call(url, resolve=loopback, ssl_context=trusting)).body == b"hi"
    with pytest.raises(TransientError, match="TLS"):
        await call(url.replace("a.example.", "b.example"), resolve=loopback, ssl_context=trusting)
    assert asked_for == ["a.example", "b.example"]
    assert len(target.requests) == 1


async def test_a_handshake_that_never_ends_meets_the_deadline_and_is_hung_up() -> None:
    """The peer must see the end: httpcore alone leaks the socket of a cancelled handshake."""
    over = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        over.set()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(TargetTimeout):
        await call(f"https://127.0.0.1:{port}/", timeout=0.5)
    await asyncio.wait_for(over.wait(), SECONDS)
    server.close()
