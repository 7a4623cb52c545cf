"""Loops that have stopped turning, and what a container's health check says of them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from accepted import loops, metrics_port
from accepted.cli import health
from accepted.loops import EVENT_LOOP, turning


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round counts as late at once."""
    monkeypatch.setattr(loops, "STUCK", 0.0)


@pytest.fixture
def port() -> Iterator[int]:
    """Answers as the metrics port does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, _, body = metrics_port._health()
            self.send_response(int(status.split()[0]))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_loop_that_rests_turns_and_one_in_a_long_round_does_not(late: None, port: int) -> None:
    with turning("relay") as relay, turning("cron") as cron:
        relay.begin()
        relay.fail()
        relay.rest(60)
        cron.begin()
        assert loops.stuck() == ["cron"]
        with pytest.raises(health.Unhealthy, match="answers 503: these loops have stopped turning: cron"):
            health.check(port)
        cron.succeed()
        cron.rest(60)
        health.check(port)
        assert [(report.name, report.failures) for report in loops.reports()] == [("relay", 1), ("cron", 0)]
        assert loops.reports()[0].last_success_at is None
        assert loops.reports()[1].last_success_at is not None
    assert loops.reports() == []


def test_a_round_may_take_its_time() -> None:
    with turning(EVENT_LOOP) as turns:
        turns.begin()
        assert not loops.stuck()
        assert loops.reports() == []  # it is no loop of the scheduler
