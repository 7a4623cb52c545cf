"""HEAD and OPTIONS by RFC 9110: HEAD is GET without the body, on every address and for every error."""

import socket
from collections.abc import Iterator

import pytest

from accepted.api.http.server import DeadlineProtocol
from tests.support.service.echo_service import DEADLINE, ShortDeadline, connected, serving


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(DeadlineProtocol) as number:
        yield number


def heads(port: int, *requests: tuple[str, str], close: bool = True) -> list[tuple[int, dict[str, str]]]:
    """The status and header fields of each answer to these (method, path), one after another on one connection.

    Nothing but heads may arrive: a body would be read as the next head.
    """
    sent = "".join(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n" for method, path in requests)
    with connected(port, sent.encode()) as sock:
        if close:
            sock.sendall(b"HEAD /closing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        *parts, rest = received(sock).split(b"\r\n\r\n")
    assert (len(parts), rest) == (len(requests) + close, b"")
    return [read_head(part) for part in parts][: len(requests)]


def received(sock: socket.socket) -> bytes:
    found = b""
    while piece := sock.recv(65536):
        found += piece
    return found


def read_head(part: bytes) -> tuple[int, dict[str, str]]:
    first, *fields = part.decode().split("\r\n")
    assert first.startswith("HTTP/1.1 "), f"not a head: {first!r}"
    named = (field.partition(": ") for field in fields)
    return int(first.split()[1]), {name.lower(): value for name, _, value in named}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/echo", 200),
        ("/echo?limit=0", 422),
        ("/nowhere", 404),
        ("/boom", 500),
        ("/raise/LedgerUnavailable", 503),
        ("/raise/Unauthenticated", 401),
        ("/problems", 200),
        ("/problems/not-found", 200),
        ("/openapi.json", 200),
        ("/lines", 405),
    ],
)
def test_head_is_get_without_the_body(port: int, path: str, status: int) -> None:
    ((answered, fields),) = heads(port, ("HEAD", path))
    with connected(port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()) as sock:
        head, _, body = received(sock).partition(b"\r\n\r\n")
    expected, of_get = read_head(head)
    for name in ("date", "connection", "x-request-id"):
        fields.pop(name, None)
        of_get.pop(name, None)
    assert (answered, expected) == (status, status)
    assert fields == of_get
    assert body
    assert int(fields["content-length"]) == len(body)


def test_the_head_of_a_stream_ends_at_once(port: int) -> None:
    """GET takes five pieces of half a deadline each, in chunks."""
    (first, second) = heads(port, ("HEAD", "/events"), ("HEAD", "/echo"))
    assert first[0] == second[0] == 200
    assert first[1]["content-type"].startswith("text/event-stream")


def test_a_refusal_before_routing_has_no_body_for_head(port: int) -> None:
    ((status, fields),) = heads(port, ("HEAD", "/" + "a" * 9000), close=False)
    assert status == 414
    assert int(fields["content-length"]) > 0


def test_an_overdue_head_is_refused_without_a_body() -> None:
    with serving(ShortDeadline) as port, connected(port, b"HEAD /echo HTTP/1.1\r\nHost: x\r\n") as sock:
        sock.settimeout(DEADLINE * 10)
        head, _, body = received(sock).partition(b"\r\n\r\n")
    assert (read_head(head)[0], body) == (408, b"")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/echo", "GET, HEAD, OPTIONS, POST"),
        ("/lines", "OPTIONS, POST"),
        ("/things/0198f1c2-7d5e-7cc3-98c4-dc0c0c07398f", "GET, HEAD, OPTIONS"),
        ("/problems", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/prefix/deep/1", "GET, HEAD, OPTIONS"),
    ],
)
@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 204), ("TRACE", 405)])
def test_allow_names_every_method(port: int, path: str, allowed: str, method: str, status: int) -> None:
    ((answered, fields),) = heads(port, (method, path)) if method == "OPTIONS" else [trace(port, path)]
    assert (answered, fields["allow"]) == (status, allowed)


def test_options_of_the_service_as_a_whole(port: int) -> None:
    """The path is `*` (RFC 9110 section 9.3.7)."""
    ((status, fields),) = heads(port, ("OPTIONS", "*"))
    assert (status, fields["allow"]) == (204, "GET, HEAD, OPTIONS, POST")


def trace(port: int, path: str) -> tuple[int, dict[str, str]]:
    with connected(port, f"TRACE {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()) as sock:
        return read_head(received(sock).partition(b"\r\n\r\n")[0])


def test_options_of_no_address_is_404(port: int) -> None:
    """The problem has a body, so only its head is read."""
    with connected(port, b"OPTIONS /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as sock:
        assert read_head(received(sock).partition(b"\r\n\r\n")[0])[0] == 404
