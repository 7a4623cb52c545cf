"""What bounds the cost of compiled schemas: how much memory they take, and whose turn it is to compile."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec

from accepted.services.job_types.compiled import CompiledJobType

COMPILED_BYTES = 24
"""Bytes that a byte of a schema takes once it is compiled: up to 23 were measured. Patterns come on top."""

Value = TypeVar("Value")


class KeptType(msgspec.Struct, frozen=True):
    """A compiled type, and the version of the ledger's row that it was made of."""

    compiled: CompiledJobType
    version: str

    @property
    def bytes(self) -> int:
        """About how many bytes it takes."""
        validator = self.compiled.validator
        return len(self.compiled.type.payload_schema) * COMPILED_BYTES + (validator.pattern_bytes if validator else 0)


class CompiledTypes:
    """Compiled types by owner and name, up to `limit` bytes of them.

    When there are more, the owner with the most loses those that it has not used for longest: an owner that has few
    keeps them, whatever others do.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[str, OrderedDict[str, KeptType]] = {}
        self._bytes: dict[str, int] = {}

    @property
    def bytes(self) -> int:
        return sum(self._bytes.values())

    def get(self, owner: str, name: str) -> KeptType | None:
        kept = self._kept.get(owner)
        if kept is None or name not in kept:
            return None
        kept.move_to_end(name)
        return kept[name]

    def put(self, owner: str, name: str, new: KeptType) -> None:
        kept = self._kept.setdefault(owner, OrderedDict())
        before = kept.pop(name, None)
        kept[name] = new
        self._bytes[owner] = self._bytes.get(owner, 0) + new.bytes - (before.bytes if before else 0)
        while self.bytes > self._limit:
            self._drop_one(max(self._bytes, key=self._bytes.__getitem__))

    def _drop_one(self, owner: str) -> None:
        _, dropped = self._kept[owner].popitem(last=False)
        self._bytes[owner] -= dropped.bytes
        if not self._kept[owner]:
            del self._kept[owner], self._bytes[owner]


class CompileTurns:
    """Runs what compiles schemas in a thread, one call at a time. Owners take turns, however many calls each has.

    After a call its owner waits for as long as the call took: compiling for one takes half of the process at most.
    """

    def __init__(self) -> None:
        self._running = asyncio.Lock()
        self._of: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, owner: str, work: Callable[..., Value], *args: Any) -> Value:
        """The value of `work(*args)`, or what it raises."""
        turn = self._of.setdefault(owner, asyncio.Lock())
        async with turn:
            async with self._running:
                outcome, seconds = await asyncio.to_thread(_timed, work, args)
            await asyncio.sleep(seconds)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _timed(work: Callable[..., Value], args: tuple[Any, ...]) -> tuple[Value | Exception, float]:
    """The value of `work` or its error, and the seconds of CPU that it took."""
    began = time.thread_time()
    try:
        outcome: Value | Exception = work(*args)
    except Exception as error:
        outcome = error
    return outcome, time.thread_time() - began
