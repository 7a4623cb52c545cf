"""A TCP proxy that can break the link it carries: put it in front of the ledger, the broker or a receiver.

    pass       bytes flow
    cut        every connection is reset at once (RST), and so is each new one
    refuse     as cut, but nothing listens: a dial is refused
    blackhole  connections stay open and nothing comes through, in both directions or one; what was sent is
               kept and flows on after `heal`, as TCP would have it
    delay      each chunk is held for a while, its successors behind it
    slice      what comes in one piece goes on in small ones
    half-close the receiving side of one direction hears the end of the stream; the other direction flows on

`watch` sees each chunk before it is passed on and may itself change the mode: "cut the link when the COMMIT
has gone up" is `lambda direction, chunk: proxy.cut() if b"COMMIT" in chunk else None`.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from tests.support.servers.ports import free_port

CHUNK = 64 * 1024  # bytes
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() sends RST and drops what is buffered

Direction = Literal["up", "down"]  # up: from the client to the target
Watch = Callable[[Direction, bytes], object]


class Proxy:
    """Stands for `url` or host:port. `async with Proxy("postgresql://…") as proxy: proxy.url_for(url)`."""

    def __init__(self, target: str, *, watch: Watch | None = None) -> None:
        where = urlsplit(target if "//" in target else f"//{target}")
        if where.hostname is None or where.port is None:
            raise ValueError("a proxy needs the host and the port of its target")
        self._target = (where.hostname, where.port)
        self.port = free_port()
        self.mode = "pass"
        self.watch = watch
        self._delay = 0.0
        self._slice = CHUNK
        self._open: dict[Direction, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._writers: set[asyncio.StreamWriter] = set()
        self._ends: dict[Direction, set[asyncio.StreamWriter]] = {"up": set(), "down": set()}
        self._ended: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Proxy":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def connections(self) -> int:
        """Client connections that are open now."""
        return len(self._tasks)

    @property
    def _broken(self) -> bool:
        return self.mode in ("cut", "refuse")

    def url_for(self, url: str) -> str:
        """The same DSN, by way of this proxy."""
        parts = urlsplit(url)
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{self.port}"))

    async def start(self) -> None:
        self._set("pass")
        await self._listen()

    async def stop(self) -> None:
        self.cut()
        self._close_listener()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def heal(self) -> None:
        self._set("pass")
        await self._listen()

    def cut(self) -> None:
        self._set("cut")
        for writer in self._writers:
            reset(writer)

    def refuse(self) -> None:
        self.cut()
        self.mode = "refuse"
        self._close_listener()

    def blackhole(self, *directions: Direction) -> None:
        """Swallow what flows in these directions; without any, in both."""
        self._set("blackhole", closed=directions or ("up", "down"))

    def delay(self, seconds: float) -> None:
        self._set("delay", delay=seconds)

    def slice(self, size: int) -> None:
        """Pieces of at most `size` bytes."""
        self._set("slice", size=size)

    def half_close(self, direction: Direction) -> None:
        """End the stream in this direction on every connection that is open; new ones are whole."""
        for writer in self._ends[direction] - self._ended:
            self._ended.add(writer)
            if not writer.is_closing():
                writer.write_eof()

    def _set(self, mode: str, *, delay: float = 0.0, size: int = CHUNK, closed: tuple[Direction, ...] = ()) -> None:
        self.mode, self._delay, self._slice = mode, delay, size
        for direction, opened in self._open.items():
            opened.clear() if direction in closed else opened.set()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._carry(reader, writer)
        except OSError:
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            reset(writer) if self._broken else writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open["up"].wait()
        if self._broken:
            return
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        self._writers.add(upstream_writer)
        ends: dict[Direction, asyncio.StreamWriter] = {"up": upstream_writer, "down": writer}
        for direction, end in ends.items():
            self._ends[direction].add(end)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump("up", reader, upstream_writer))
                both.create_task(self._pump("down", upstream_reader, writer))
        except* OSError:
            pass
        finally:
            self._writers.discard(upstream_writer)
            for direction, end in ends.items():
                self._ends[direction].discard(end)
                self._ended.discard(end)
            reset(upstream_writer) if self._broken else upstream_writer.close()

    async def _pump(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK):
            if self.watch is not None:
                self.watch(direction, chunk)
            await asyncio.sleep(self._delay)
            await self._open[direction].wait()
            if self._broken:
                return
            if writer in self._ended:
                return
            for start in range(0, len(chunk), self._slice):
                writer.write(chunk[start : start + self._slice])
                await writer.drain()
        await self._open[direction].wait()
        if writer.can_write_eof() and not self._broken and writer not in self._ended:
            writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    peer: socket.socket | None = writer.get_extra_info("socket")
    if peer is not None and peer.fileno() >= 0:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
