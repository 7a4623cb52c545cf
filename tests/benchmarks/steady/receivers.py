"""Receivers of webhooks, in a process that costs little. It prints its port.

A POST to /stuck is never answered, any other at once. GET / answers how many milliseconds before its arrival the job of
each POST to /fast had ended, since the last GET.
"""

import asyncio
import json
import re
import time
from datetime import datetime
from typing import Any

import uvloop

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_FINISHED = re.compile(rb'"finished_at":"([^"]+)"')
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b"

taken: list[float] = []


class Connection(asyncio.Protocol):
    """One request after another."""

    def connection_made(self, transport: Any) -> None:
        self._write = transport.write
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, end, body = self._seen.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            return
        self._seen = b""
        if head.startswith(b"GET"):
            said = json.dumps(taken).encode()
            taken.clear()
            self._write(_ANSWER % (len(said), said))
        elif not head.startswith(b"POST /stuck"):
            self._note(head, body)
            self._write(_ANSWER % (0, b""))

    def _note(self, head: bytes, body: bytes) -> None:
        finished = _FINISHED.search(body)
        if finished and head.startswith(b"POST /fast"):
            ended = datetime.fromisoformat(finished[1].decode()).timestamp()
            taken.append((time.time() - ended) * 1000)


async def _main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "0.0.0.0", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())
