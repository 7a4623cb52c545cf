"""A batch of many lines sent to a real API process, and what that costs it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import psutil

PIECE = 500  # lines
LOOK = 0.02  # seconds between looks at the memory of the process
PATIENCE = 900.0


@dataclass
class Peak:
    """Bytes that a process has held in memory, at most and before."""

    before: int
    most: int = 0

    @property
    def grown(self) -> int:
        return self.most - self.before


@asynccontextmanager
async def peak_of(pid: int) -> AsyncIterator[Peak]:
    """How much memory the process takes while the block runs."""
    process = psutil.Process(pid)
    peak = Peak(before=process.memory_info().rss)

    async def look() -> None:
        while True:
            peak.most = max(peak.most, process.memory_info().rss)
            await asyncio.sleep(LOOK)

    looking = asyncio.create_task(look())
    try:
        yield peak
    finally:
        looking.cancel()
        await asyncio.wait({looking})


def line(number: int) -> bytes:
    """A job such as a client would send: some 90 bytes."""
    return b'{"type":"noop","queue":"upload","payload":{"to":"user-%d@example.com","template":"news"}}\n' % number


async def pieces(count: int) -> AsyncIterator[bytes]:
    for start in range(0, count, PIECE):
        yield b"".join(line(number) for number in range(start, min(start + PIECE, count)))


async def upload(url: str, count: int, **headers: str) -> tuple[httpx.Response, float]:
    """POST /batches with so many lines; the answer, and how many seconds it took."""
    sent = {"content-type": "application/x-ndjson"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE) as client:
        started = time.perf_counter()
        answer = await client.post("/batches", content=pieces(count), headers=sent)
        return answer, time.perf_counter() - started
