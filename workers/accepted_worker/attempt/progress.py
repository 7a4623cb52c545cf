"""Writes the progress of attempts to the ledger, in few writes. No handler waits for one.

The last progress of an attempt is kept until the attempt ends, and is recorded with its outcome. So it is never lost,
even if earlier writes failed.
"""

import asyncio
import contextvars
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from accepted import logs
from accepted.containment import RowErrors
from accepted.domain.references import Lease
from accepted.errors import LedgerUnavailable
from accepted_worker.attempt.records import AttemptRecords
from accepted_worker.attempt.threads import LoopBridge

PAUSE = 0.25
"""Seconds between two writes. Each is for all attempts of the worker, so a watcher sees four changes a second."""


class ProgressWriter:
    """The progress of all attempts of one worker. For the worker's event loop alone."""

    def __init__(self, records: AttemptRecords) -> None:
        self._records = records
        self._last: dict[Lease, str] = {}
        self._unwritten: set[Lease] = set()
        self._writing: asyncio.Task[None] | None = None
        self._errors = RowErrors("progress")
        self._context = contextvars.copy_context()
        """That of no attempt, or what goes wrong would be logged as that of the attempt that reported first."""

    def say(self, lease: Lease, value: str) -> None:
        """Set the progress of an attempt, as JSON text. It is written soon, unless newer progress comes first."""
        if self._last.get(lease) == value:
            return
        self._last[lease] = value
        self._unwritten.add(lease)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), context=self._context)

    def end(self, lease: Lease) -> str | None:
        """The attempt has ended: forget its progress, and return the last of it; None if there was none."""
        self._unwritten.discard(lease)
        return self._last.pop(lease, None)

    async def _write(self) -> None:
        try:
            while self._unwritten:
                await self._write_once()
                await asyncio.sleep(PAUSE)
        finally:
            self._writing = None

    async def _write_once(self) -> None:
        batch = {lease: self._last[lease] for lease in self._unwritten}
        self._unwritten.clear()
        try:
            write = partial(self._write_some, batch)
            await self._errors.together_or_each(list(batch), write, name=lambda lease: lease.job_id, refused=None)
        except LedgerUnavailable as error:
            logs.outage("progress_waits", error)
            self._unwritten |= batch.keys() & self._last.keys()

    async def _write_some(self, batch: Mapping[Lease, str], leases: Sequence[Lease]) -> Sequence[None]:
        await self._records.write_progress({lease: batch[lease] for lease in leases})
        return [None] * len(leases)


class LatestProgress:
    """Passes the progress of one attempt to `take` on the worker's event loop, from any thread.

    Of several values that come before the loop's next turn only the last is passed on: a thread that reports in a
    tight loop would otherwise keep the event loop from all other work.
    """

    def __init__(self, bridge: LoopBridge, take: Callable[[str], None]) -> None:
        self._bridge = bridge
        self._take = take
        self._value = ""
        self._scheduled = False

    def __call__(self, value: str) -> None:
        """Returns at once. A value that is given before the attempt ends is passed on before it ends."""
        self._value = value
        if not self._scheduled:
            self._scheduled = True
            self._bridge.call_soon(self._pass_on)

    def _pass_on(self) -> None:
        self._scheduled = False  # first, because a value that is set after this line needs a turn of its own
        self._take(self._value)
