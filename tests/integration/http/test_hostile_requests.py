"""Hostile requests over real sockets: what FAULTS 4.1 lists never gets a 500 (contract section 4)."""

import socket
from collections.abc import Iterator

import httpx
import pytest

from accepted.api.http.server import DeadlineProtocol
from tests.support.service.echo_service import (
    CANARY,
    HEAD,
    MAX_BODY,
    MAX_LINE,
    answer,
    ask,
    check_problem,
    connected,
    post,
    serving,
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(DeadlineProtocol) as number:
        yield number


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"a":NaN}', 400),
        (b'{"a":Infinity}', 400),
        (b'{"type":1e999}', 400),
        (b'"\\ud800"', 400),
        (b'{"\\ud800":1}', 400),
        (b'{"a":"\\u0000"}', 422),
        (b"[" * 900 + b"]" * 900, 422),
        (b"[" * 5000 + b"]" * 5000, 422),
        (b"[" * 49_000 + b"]" * 49_000, 422),
        (b"[" * 99_000, 422),
        (b'{"a":' + b"9" * 4000 + b"}", 422),
        (b'{"a":' + b"9" * 5000 + b"}", 422),
        (b"9223372036854775808", 422),
        (b'{"a":1,"a":2}', 400),
        (b"\xef\xbb\xbf{}", 400),
        ('{"a":1}'.encode("utf-16"), 400),
        (b'{"a":"\xff"}', 400),
        (b'{"a":', 400),
        (b"", 400),
        (f'{{"{CANARY}": tru}}'.encode(), 400),
        (f'{{"a": "{CANARY}\\u0000"}}'.encode(), 422),
        (b'"' + b"x" * MAX_BODY + b'"', 413),
        (b"[" + b"1," * 40_000 + b"1]", 200),
        (b"null", 200),
        (b"[]", 200),
    ],
    ids=lambda it: repr(it[:20]) if isinstance(it, bytes) else None,
)
def test_bodies(port: int, body: bytes, status: int) -> None:
    response = post(port, body)
    assert response.status_code == status
    if status != 200:
        check_problem(status, response.headers, response.content, "/echo")


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; Charset=UTF-8", 200),
        ('application/json;charset="utf-8"', 200),
        ("application/json;", 200),
        ("application/json; charset=utf-7", 415),
        ("application/json; charset=utf-16", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonp", 415),
        ("", 415),
    ],
)
def test_content_types(port: int, content_type: str, status: int) -> None:
    assert post(port, b"{}", content_type=content_type).status_code == status


def test_no_content_type_is_415(port: int) -> None:
    status, headers, body = ask(port, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    assert status == 415
    check_problem(415, headers, body)


@pytest.mark.parametrize(("coding", "status"), [("gzip", 415), ("br", 415), ("identity, gzip", 415), ("Identity", 200)])
def test_nothing_is_decompressed(port: int, coding: str, status: int) -> None:
    assert post(port, b"{}", content_encoding=coding).status_code == status


def test_a_large_body_is_refused_before_it_is_read(port: int) -> None:
    status, headers, body = ask(port, HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999999999999999\r\n\r\n")
    assert status in (400, 413)  # beyond 64 bits the parser refuses it first
    check_problem(status, headers, body)
    status, headers, body = ask(port, HEAD + b"Content-Length: 10485760\r\n\r\n")
    assert status == 413
    check_problem(413, headers, body)


def test_a_large_body_is_refused_while_it_streams(port: int) -> None:
    chunk = b"8000\r\n" + b"1" * 0x8000 + b"\r\n"
    status, headers, body = ask(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 4)  # without a last chunk
    assert status == 413
    check_problem(413, headers, body)


@pytest.mark.parametrize(("body", "status"), [(b'"123456"', 200), (b'"1234567"', 413)])
def test_a_body_without_a_length_that_comes_at_once_is_counted(port: int, body: bytes, status: int) -> None:
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert ask(port, HEAD.replace(b"/echo", b"/small") + chunked)[0] == status


def test_an_ndjson_body_is_limited_by_line_only(port: int) -> None:
    url = f"http://127.0.0.1:{port}/lines"
    type_ = {"content-type": "application/x-ndjson"}
    assert httpx.post(url, content=b"{}\n{}\r\n\n[]", headers=type_, trust_env=False).json() == [2, 3, 0, 2]
    assert httpx.post(url, content=b"{}\n", headers=type_, trust_env=False).json() == [2]
    assert httpx.post(url, content=b"", headers=type_, trust_env=False).json() == []
    assert len(httpx.post(url, content=b"{}\n" * MAX_BODY, headers=type_, trust_env=False).json()) == MAX_BODY
    assert httpx.post(url, content=b"x" * MAX_LINE, headers=type_, trust_env=False).json() == [MAX_LINE]
    for long in (b"x" * (MAX_LINE + 1), b"{}\n" + b"x" * (MAX_LINE + 1) + b"\n{}", [b"{}\n" * 9, b"x" * MAX_BODY]):
        refused = httpx.post(
            url, content=long if isinstance(long, bytes) else iter(long), headers=type_, trust_env=False
        )
        assert refused.status_code == 413
        assert f"line {1 if long[:1] == b'x' else 2 if isinstance(long, bytes) else 10} " in refused.json()["detail"]
    assert httpx.post(url, content=b"{}\n", trust_env=False).status_code == 415


def test_lines_may_be_split_over_chunks(port: int) -> None:
    head = HEAD.replace(b"/echo", b"/lines").replace(b"application/json", b"application/x-ndjson")
    body = b"[1]\n[2,3]\n\n[4]"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert ask(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)[2] == b"[3, 5, 0, 3]"


def test_chunked_bodies_and_extensions_are_read(port: int) -> None:
    status, _, body = ask(port, HEAD + b'Transfer-Encoding: chunked\r\n\r\n3;a="b"\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n')
    assert (status, body) == (200, b"[1,2]")


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: -5\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}1",
        HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
        HEAD + b"Content-Length: 0x2\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}garbage",
        HEAD + b"Content-Length : 2\r\n\r\n{}",
        HEAD + b" folded: x\r\n\r\n",
        HEAD + b"Bad\x00Name: x\r\n\r\n",
        HEAD + b"Bad: a\x00b\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[bad/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda sent: repr(sent.removeprefix(HEAD)[:48]),
)
def test_broken_framing_is_400_and_closes(port: int, sent: bytes) -> None:
    with connected(port, sent) as sock:
        status, headers, body = answer(sock)
        assert status == 400
        assert headers["connection"] == "close"
        check_problem(400, headers, body)
        assert sock.recv(1) == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /echo?" + b"x" * 65536 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /" + b"x" * 65536 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /" + b"x" * 9000, 414),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 65536 + b"\r\n\r\n", 431),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\n" + b"X-Many: 1234567890123456789012345678\r\n" * 1000 + b"\r\n", 431),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\n" + b"X-Few: 12345\r\n" * 500 + b"\r\n", 200),
    ],
    ids=["query", "path", "endless", "long", "many", "allowed"],
)
def test_heads_are_bounded(port: int, sent: bytes, status: int) -> None:
    got, headers, body = ask(port, sent)
    assert got == status
    if status != 200:
        check_problem(status, headers, body)


def test_a_head_without_end_is_cut_off(port: int) -> None:
    with connected(port, b"GET /echo HTTP/1.1\r\nHost: x\r\nX-Long: ") as sock:
        sent = 0
        try:
            while sent < 64 * 1024 * 1024:
                sent += sock.send(b"x" * 4096)
        except OSError:
            pass
    assert sent < 8 * 1024 * 1024  # what kernel buffers hold


def test_trailers_without_end_are_cut_off(port: int) -> None:
    with connected(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n") as sock:
        sent = 0
        try:
            while sent < 64 * 1024 * 1024:
                sent += sock.send(b"X-Trailer: yes\r\n" * 256)
        except OSError:
            pass
    assert sent < 8 * 1024 * 1024


def test_a_body_longer_than_it_says_does_not_spoil_its_own_answer(port: int) -> None:
    with connected(port, HEAD + b"Content-Length: 2\r\n\r\n{}{}{}{}\r\n\r\n") as sock:
        assert answer(sock)[0] == 200


def test_pipelined_requests_are_answered_in_turn(port: int) -> None:
    bodies = [b'"%s"' % (letter * size) for letter, size in ((b"a", 10), (b"b", 60_000), (b"c", 20))]
    sent = b"".join(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body) for body in bodies)
    with connected(port, sent + b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as sock:
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 4
    places = [received.index(body) for body in bodies]
    assert places == sorted(places)


@pytest.mark.parametrize("pieces", [1, 5], ids=["whole", "split"])
def test_an_upgrade_is_declined_and_the_request_answered(port: int, pieces: int) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    request = HEAD + upgrade + b"Content-Length: 2\r\n\r\n{}"
    step = len(request) // pieces + 1
    with connected(port) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(3):  # on one connection
            for start in range(0, len(request), step):
                sock.sendall(request[start : start + step])
            status, _, body = answer(sock)
            assert (status, body) == (200, b"{}")
