"""The load generator: a process of its own, cheap enough not to be what is measured, the same for every server.

Each connection sends its next request as soon as the last answer is whole (or, with a rate, on a shared clock).
Requests are one template with a number in it; of an answer only its status, its length and (with a rate) the
job's id are read.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import deque
from typing import Any
from uuid import uuid4

import msgspec
import uvloop

from tests.benchmarks.figures import Failed

CONNECTIONS = 32
SLACK = 60.0
"""Seconds that a run may take beyond what it was asked for."""

FIRST_NUMBER = 10**9  # every number has as many digits, and so every request as many bytes

_LENGTH = b"content-length: "
_ID = b'"id":"'


class Load(msgspec.Struct):
    """What came of a run.

    With a rate only: `sent` has (job id, Unix time just before its request was sent), and `taken` the seconds from then
    to the whole answer.
    """

    started_at: float
    seconds: float
    answered: int
    refused: int
    sent: list[tuple[str, float]] = []
    taken: list[float] = []

    @property
    def rate(self) -> float:
        return self.answered / self.seconds


def drive(
    port: int,
    *,
    seconds: float = 0.0,
    requests: int = 0,
    rate: float = 0.0,
    queue: str = "default",
    callback: str = "",
    warmup: float = 0,
) -> Load:
    """POST /jobs from a process of its own for `seconds`, or `requests` times; raises `Failed` for any other than 202.

    Answers that come during the first `warmup` seconds are not counted. `callback` is the URL of each job's webhook.
    """
    options = {"port": port, "seconds": seconds, "requests": requests, "rate": rate, "queue": queue, "warmup": warmup}
    words = [f"--{name}={value}" for name, value in options.items()] + [f"--callback={callback}"] * bool(callback)
    command = [sys.executable, "-m", "tests.benchmarks.client", *words]
    expected = requests / rate if rate else seconds
    done = subprocess.run(command, capture_output=True, text=True, timeout=warmup + expected + SLACK)
    if done.returncode or not done.stdout:
        raise Failed(f"the load generator: {done.stderr.strip()[-500:]}")
    load = msgspec.json.decode(done.stdout, type=Load)
    if load.refused or not load.answered:
        raise Failed(f"{load.answered} requests were answered with 202, {load.refused} otherwise")
    return load


class Requests:
    """Makes the bytes of the next request, each with a fresh Idempotency-Key; counts what comes back."""

    def __init__(self, queue: str, callback: str, limit: int) -> None:
        body = b'{"type":"noop","payload":{"n":%%d}%b%b}' % (
            b"" if queue == "default" else b',"queue":"%b"' % queue.encode(),
            b',"callback_url":"%b"' % callback.encode() if callback else b"",
        )
        head = (
            b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Idempotency-Key: %b-%%d\r\nContent-Length: %d\r\n\r\n"
        ) % (uuid4().hex.encode(), len(body % FIRST_NUMBER))
        self._template = head + body
        self._number = FIRST_NUMBER
        self._last = FIRST_NUMBER + limit if limit else 0
        self.answered = 0
        self.refused = 0
        self.ended = asyncio.Event()
        self.sent: list[tuple[str, float]] = []
        self.taken: list[float] = []

    def next(self) -> bytes | None:
        """None when there is no more to send."""
        if self.ended.is_set() or self._number == self._last:
            return None
        self._number += 1
        return self._template % (self._number, self._number)

    def count(self, ok: bool) -> None:
        if ok:
            self.answered += 1
        else:
            self.refused += 1
        if self._last and self.answered + self.refused == self._last - FIRST_NUMBER:
            self.ended.set()


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self, requests: Requests, repeats: bool) -> None:
        self._requests = requests
        self._repeats = repeats
        self._pending = b""
        self._sent_at = 0.0
        self.busy = False

    def connection_made(self, transport: Any) -> None:
        self._write = transport.write

    def send(self) -> None:
        request = self._requests.next()
        self.busy = request is not None
        if request is not None:
            self._sent_at = time.time()
            self._write(request)

    def data_received(self, data: bytes) -> None:
        if self._pending:
            data = self._pending + data
        head = data.find(b"\r\n\r\n")
        at = data.find(_LENGTH, 0, head)
        if head < 0 or len(data) < head + 4 + int(data[at + len(_LENGTH) : data.find(b"\r", at)]):
            self._pending = data
            return
        self._pending = b""
        self._requests.count(data.startswith(b"HTTP/1.1 202"))
        if self._repeats:
            self.send()
            return
        self.busy = False
        self._requests.taken.append(time.time() - self._sent_at)
        start = data.find(_ID, head) + len(_ID)
        self._requests.sent.append((data[start : data.find(b'"', start)].decode(), self._sent_at))


async def _flat_out(connections: list[Connection], requests: Requests, warmup: float, seconds: float) -> Load:
    started_at = time.time()
    for connection in connections:
        connection.send()
    if warmup:
        await asyncio.sleep(warmup)
    before, start = requests.answered, time.perf_counter()
    try:
        await asyncio.wait_for(requests.ended.wait(), seconds or SLACK)
    except TimeoutError:
        requests.ended.set()
    return Load(started_at, time.perf_counter() - start, requests.answered - before, requests.refused)


async def _paced(connections: list[Connection], requests: Requests, rate: float) -> Load:
    """Requests leave when their time has come, whether or not earlier ones were answered.

    The connections take turns, because the server closes one that is idle for long.
    """
    started_at, start, turn = time.time(), time.perf_counter(), 0
    idle_longest = deque(connections)
    while not requests.ended.is_set():
        free = next((one for one in idle_longest if not one.busy), None)
        if free is not None:
            idle_longest.remove(free)
            idle_longest.append(free)
            free.send()
        turn += 1
        await asyncio.sleep(max(start + turn / rate - time.perf_counter(), 0))
    seconds = time.perf_counter() - start
    return Load(started_at, seconds, requests.answered, requests.refused, requests.sent, requests.taken)


async def _main(options: argparse.Namespace) -> Load:
    requests = Requests(options.queue, options.callback, options.requests)
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: Connection(requests, not options.rate), "127.0.0.1", options.port))[1]
        for _ in range(CONNECTIONS)
    ]
    if options.rate:
        return await _paced(connections, requests, options.rate)
    return await _flat_out(connections, requests, options.warmup, options.seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--queue", default="default")
    parser.add_argument("--callback", default="")
    parser.add_argument("--requests", type=int, default=0)
    for name in ("seconds", "rate", "warmup"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    print(json.dumps(msgspec.to_builtins(uvloop.run(_main(parser.parse_args())))))
