"""Keeps what is wrong with one row from stopping the work on its neighbors.

Loops, refreshes and caches go through rows that other processes, other releases and operators have written. A row that
cannot be used is the problem of its own job, type, queue or schedule alone: its error is logged once, and the next row
is worked on. An `AcceptedError` is no error of a row: the ledger or the broker is away, and the whole round fails.
"""

import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import structlog

from accepted.errors import AcceptedError, describe

TRY_AGAIN = 60.0
"""Seconds after which a row that failed is tried again: somebody may have mended it."""

MAX_KEPT = 1000
"""Rows that are remembered; beyond them, their errors are logged again."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


class RowErrors:
    """The errors of the rows of one loop. `loop` is its name in the log."""

    def __init__(self, loop: str) -> None:
        self._loop = loop
        self._failed: dict[str, tuple[str, float]] = {}

    @contextmanager
    def contained(self, row: str) -> Iterator[None]:
        """Work on one row; `row` names it. Its error is logged, once until it changes or the row works again."""
        try:
            yield
        except AcceptedError:
            raise
        except Exception as error:
            said = _said(error)
            if self._failed.get(row, ("", 0.0))[0] != said:
                log.error("row_unusable", loop=self._loop, row=row, error=said)
            if len(self._failed) >= MAX_KEPT:
                self._failed.clear()
            self._failed[row] = (said, time.monotonic())
        else:
            self._failed.pop(row, None)

    def failed_lately(self) -> list[str]:
        """The rows that failed less than `TRY_AGAIN` seconds ago: a round can leave them out."""
        since = time.monotonic() - TRY_AGAIN
        return [key for key, (_, at) in self._failed.items() if at > since]

    async def together_or_each(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        name: Callable[[Item], object],
        refused: Answer,
    ) -> list[Answer]:
        """`work` on all items at once, which costs as much as on one; if that fails, on each alone.

        Returns an answer for each item: `refused` for one with which `work` fails, which is logged by its `name`.
        """
        try:
            return list(await work(items))
        except AcceptedError:
            raise
        except Exception:
            return [await self._alone(item, work, str(name(item)), refused) for item in items]

    async def _alone(
        self, item: Item, work: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], name: str, refused: Answer
    ) -> Answer:
        with self.contained(name):
            (answer,) = await work([item])
            return answer
        return refused


def _said(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{describe(error)} ({Path(place.filename).name}:{place.lineno})"
