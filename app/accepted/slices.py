"""Long computations on the event loop, a slice at a time: however many there are, others wait for one slice."""

import asyncio
from time import perf_counter
from types import TracebackType

SLICE = 0.003
"""Seconds. A request that needs ten turns of the event loop is held up by some 30 ms at worst."""


class Slices:
    """`async with` makes it our turn to compute; `breathe` in between lets the event loop look after the others."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._since = 0.0

    async def __aenter__(self) -> "Slices":
        await self._turn.acquire()
        self._since = perf_counter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turn.release()

    async def breathe(self) -> None:
        if perf_counter() - self._since > SLICE:
            await asyncio.sleep(0)
            self._since = perf_counter()
