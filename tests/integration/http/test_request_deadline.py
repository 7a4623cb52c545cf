"""Requests must arrive within 30 s (contract section 4); answers may take any time."""

import socket
from collections.abc import Iterator
from time import monotonic

import httpx
import pytest

from tests.support.service.echo_service import (
    DEADLINE,
    HEAD,
    ShortDeadline,
    answer,
    ask,
    check_problem,
    connected,
    get,
    serving,
    still_open,
)  # fmt: skip

IN_TIME = 8.5
"""Seconds: many deadlines, for a busy machine, and less than the 9 s after which an idle connection ends anyway."""


@pytest.fixture(scope="module")
def hasty_port() -> Iterator[int]:
    with serving(ShortDeadline) as number:
        yield number


def seconds_until_dropped(sock: socket.socket, drip: bytes = b"") -> float:
    """Sends `drip` ten times in each deadline until the server ends the connection."""
    started = monotonic()
    sock.settimeout(DEADLINE / 10 if drip else 10)
    while True:
        try:
            if drip:
                sock.sendall(drip)
            if sock.recv(4096) == b"":
                return monotonic() - started
        except TimeoutError:
            assert monotonic() - started < IN_TIME
        except OSError:
            return monotonic() - started


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"POST /ec", b""),
        (HEAD + b"X-Drip: ", b"x"),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b""),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (HEAD + b"Content-Length: 9999999\r\n\r\n", b"x"),
        (HEAD + b"Content-Length: 2\r\n\r\n{}", b"\r\n"),
    ],
    ids=["silent", "blank", "line", "head", "body", "body-drip", "chunks", "refused-413", "after"],
)
def test_what_does_not_arrive_in_time_is_dropped(hasty_port: int, sent: bytes, drip: bytes) -> None:
    with connected(hasty_port, sent) as sock:
        assert DEADLINE * 0.8 < seconds_until_dropped(sock, drip) < IN_TIME
    assert get(hasty_port, "/echo").status_code == 200


@pytest.mark.parametrize("sent", [b"POST /echo HTT", HEAD + b"Content-Length: 9\r\n\r\n{}"], ids=["head", "body"])
def test_an_overdue_request_is_answered_408(hasty_port: int, sent: bytes) -> None:
    status, headers, body = ask(hasty_port, sent)
    assert status == 408
    assert headers["connection"] == "close"
    check_problem(408, headers, body)


LINES = HEAD.replace(b"/echo", b"/lines").replace(b"application/json", b"application/x-ndjson")


def test_an_ndjson_body_has_the_deadline_for_each_line(hasty_port: int) -> None:
    """It takes four deadlines, with a line each tenth of a deadline."""
    with connected(hasty_port, LINES + b"Content-Length: 120\r\n\r\n") as sock:
        for _ in range(39):
            sock.sendall(b"{}\n")
            assert still_open(sock, DEADLINE / 10)
        sock.sendall(b"{}\n")
        assert answer(sock)[0] == 200


def test_an_ndjson_body_that_does_not_end_is_dropped() -> None:
    class ShortBody(ShortDeadline):
        LONGEST_BODY = 2 * DEADLINE

    head = LINES + b"Content-Length: 1000\r\n\r\n"
    with serving(ShortBody) as port, connected(port, head) as sock:
        assert DEADLINE * 2.8 < seconds_until_dropped(sock, b"{}\n") < IN_TIME


@pytest.mark.parametrize("drip", [b"", b" "], ids=["stall", "drip"])
def test_a_line_that_does_not_come_in_time_is_dropped(hasty_port: int, drip: bytes) -> None:
    with connected(hasty_port, LINES + b"Content-Length: 1000\r\n\r\n{}\n{}\n{") as sock:
        assert DEADLINE * 0.8 < seconds_until_dropped(sock, drip) < IN_TIME


def test_a_body_is_refused_once(hasty_port: int) -> None:
    with connected(hasty_port, HEAD + b"Content-Length: 9999999\r\n\r\n") as sock:
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 413")
    assert received.count(b"HTTP/1.1") == 1


def test_many_silent_sockets_block_nothing(hasty_port: int) -> None:
    crowd = [socket.create_connection(("127.0.0.1", hasty_port), timeout=10) for _ in range(200)]
    started = monotonic()
    assert get(hasty_port, "/echo").status_code == 200
    assert monotonic() - started < IN_TIME
    assert all(sock.recv(1) == b"" for sock in crowd)
    for sock in crowd:
        sock.close()


def test_a_long_poll_is_not_dropped(hasty_port: int) -> None:
    status, _, body = ask(hasty_port, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, body) == (200, b"0")


def test_a_long_poll_with_stray_bytes_behind_it_is_not_dropped(hasty_port: int) -> None:
    with connected(hasty_port, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n") as sock:
        assert still_open(sock, DEADLINE / 2)
        sock.sendall(b"\r\n")
        status, headers, _ = answer(sock, "GET")
        assert status == 200
        assert "connection" not in headers


def test_an_event_stream_is_not_dropped(hasty_port: int) -> None:
    response = get(hasty_port, "/events")
    assert response.text.endswith("data: 4\n\n")


def test_a_slow_handler_does_not_use_up_the_deadline(hasty_port: int) -> None:
    big = b"x" * (8 * 1024 * 1024)  # more than all buffers hold
    response = httpx.post(f"http://127.0.0.1:{hasty_port}/slow", content=big, trust_env=False)
    assert response.text == str(len(big))


def test_time_in_which_we_do_not_read_is_not_counted(hasty_port: int) -> None:
    big = 8 * 1024 * 1024
    with connected(hasty_port, b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % big) as sock:
        sock.sendall(b"x" * (big - 1))  # takes until the handler reads, long after the deadline
        assert still_open(sock, DEADLINE * 0.75)
        sock.sendall(b"x")
        assert answer(sock)[2] == b"%d" % big


def test_an_idle_connection_stays_for_the_next_request(hasty_port: int) -> None:
    request = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(hasty_port, request) as sock:
        assert answer(sock, "GET")[0] == 200
        assert still_open(sock, DEADLINE * 2.5)
        sock.sendall(request)
        assert answer(sock, "GET")[0] == 200


def test_garbage_behind_a_request_does_not_prevent_its_answer(hasty_port: int) -> None:
    with connected(hasty_port, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n") as sock:
        assert still_open(sock, DEADLINE / 2)
        sock.sendall(b"GARBAGE\r\n\r\n")
        assert answer(sock, "GET")[0] == 200
        assert sock.recv(1) == b""
