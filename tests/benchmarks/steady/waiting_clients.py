"""Thousands of clients of one API process, in a process that costs little: one for `?wait=`, one for `/events`.

Reads job ids from its standard input, one a line, and opens a connection for each. Says "waiting" when all wait, and at
the end, when each has been told that its job has finished, for how many milliseconds the end had been in the ledger.
A long poll that answers something else is sent again, with the ETag that it got.
"""

import asyncio
import json
import re
import sys
import time
from datetime import datetime
from typing import Any

import uvloop

AT_ONCE = 100
"""Connections being opened."""

ADDRESSES = 16
"""Loopback addresses from which connections come, so that no one runs out of ports."""

WAIT = 60  # seconds: as long as a client may ask for

_POLL = b"GET /jobs/%b?wait=%d HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n"
_EVENTS = b"GET /jobs/%b/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_ETAG = re.compile(rb'etag: ("[^"]+")')
_LENGTH = re.compile(rb"content-length: (\d+)")
_POLLED = re.compile(rb'"finished_at":"([^"]+)"')
_STREAMED = re.compile(rb'"status":"succeeded","attempt":1,"at":"([^"]+)"')


class Clients:
    """What all connections of the process come to."""

    def __init__(self, streams: bool) -> None:
        self.streams = streams
        self.waiting = 0
        self.taken: list[float] = []
        self.refused: list[bytes] = []
        self.changed = asyncio.Event()

    def tell(self, at: bytes) -> None:
        finished = datetime.fromisoformat(at.decode()).timestamp()
        self.taken.append((time.time() - finished) * 1000)
        self.changed.set()

    async def until(self, count: int, *, told: bool) -> None:
        while (len(self.taken) if told else self.waiting) < count:
            if self.refused:
                raise SystemExit(f"refused: {self.refused[0][:200]!r}")
            self.changed.clear()
            await self.changed.wait()


class OneClient(asyncio.Protocol):
    """One connection, which asks for one job."""

    def __init__(self, clients: Clients, job_id: str) -> None:
        self._clients = clients
        self._job_id = job_id.encode()
        self._seen = b""
        self._done = False
        self._counted = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self._clients.streams:
            transport.write(_EVENTS % self._job_id)
        else:
            self._poll(b"")

    def data_received(self, data: bytes) -> None:
        if self._done:
            return
        self._seen += data
        if self._clients.streams:
            self._read_events()
        else:
            self._read_answer()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done:
            self._refuse(self._seen or str(error).encode())

    def _poll(self, condition: bytes) -> None:
        self._transport.write(_POLL % (self._job_id, WAIT, condition))
        self._count()

    def _read_events(self) -> None:
        if not self._seen.startswith(b"HTTP/1.1 200"):
            self._refuse(self._seen)
        elif found := _STREAMED.search(self._seen):
            self._end(found[1])
        elif b'"status"' in self._seen:
            self._count()

    def _read_answer(self) -> None:
        head, _, body = self._seen.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if (length and len(body) < int(length[1])) or b"\r\n\r\n" not in self._seen:
            return
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 304")):
            self._refuse(self._seen)
        elif found := _POLLED.search(body):
            self._end(found[1])
        else:
            self._seen = b""
            etag = _ETAG.search(head)
            self._poll(b"If-None-Match: %b\r\n" % etag[1] if etag else b"")

    def _count(self) -> None:
        if not self._counted:
            self._counted = True
            self._clients.waiting += 1
            self._clients.changed.set()

    def _end(self, at: bytes) -> None:
        self._done = True
        self._clients.tell(at)
        self._transport.close()

    def _refuse(self, answer: bytes) -> None:
        self._clients.refused.append(answer)
        self._clients.changed.set()


async def _main(port: int, streams: bool) -> None:
    ids = sys.stdin.read().split()
    clients, loop, room = Clients(streams), asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)

    async def open_one(number: int, job_id: str) -> None:
        async with room:
            source = (f"127.0.0.{2 + number % ADDRESSES}", 0)
            await loop.create_connection(lambda: OneClient(clients, job_id), "127.0.0.1", port, local_addr=source)

    await asyncio.gather(*(open_one(number, job_id) for number, job_id in enumerate(ids)))
    await clients.until(len(ids), told=False)
    print("waiting", flush=True)
    await clients.until(len(ids), told=True)
    print(json.dumps(clients.taken))


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1]), sys.argv[2] == "events"))
