"""How many attempts run at once."""

import asyncio


class Slots:
    """Counts free slots; `some` waits for at least one."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._any = asyncio.Event()
        self._any.set()

    async def some(self) -> int:
        """Wait for a free slot; returns how many there are (0 after `open`, when none became free)."""
        await self._any.wait()
        return max(self._free, 0)

    def take(self) -> None:
        self._free -= 1
        if self._free <= 0:
            self._any.clear()

    def give_back(self) -> None:
        self._free += 1
        self._any.set()

    def open(self) -> None:
        """Let whoever waits go on, to see that there is nothing more to do."""
        self._any.set()
