"""Batches in NDJSON, up to a million lines: each line is checked as it arrives, and kept aside until all are there.

So memory stays flat, a slow client holds no transaction open, and a batch with one bad line writes no row.
"""

from collections.abc import Sequence

from accepted.concurrency import TimeSlices
from accepted.domain import json_pieces
from accepted.domain.request_headers import LinesFingerprint
from accepted.errors import FieldError, InvalidRequest, MalformedLines, MalformedRequest, TooLarge
from accepted.services.batches.checks import Members
from accepted.services.batches.spool import Spool
from accepted.services.batches.submission import BatchSubmission

MAX_LINES = 1_000_000


class NdjsonBatch:
    """A batch that arrives line by line. `with` closes the spool in the end."""

    def __init__(self, members: Members, fingerprint: LinesFingerprint | None, spool: Spool) -> None:
        self._members = members
        self._fingerprint = fingerprint
        self._spool = spool
        self._number = 0
        self._unreadable = False

    async def take(self, lines: Sequence[bytes], slices: TimeSlices) -> None:
        """Check the next lines; empty ones are only counted. Raises as `Spool.add`, or the errors if too many."""
        async with slices:
            for line in lines:
                self._number += 1
                if line.strip():
                    await self._take(line, slices)
                await slices.pause()

    def submission(self, key: str | None) -> BatchSubmission:
        """The whole batch. Raises `InvalidRequest` or `MalformedLines`, with the pointer /n for line n."""
        if self._unreadable:
            raise MalformedLines(self._members.errors)
        if not self._members.total and not self._members.errors:
            raise InvalidRequest([FieldError("", "needs at least one line")])
        batch, spread = self._members.batch(), self._members.spread
        return BatchSubmission(
            batch=batch,
            jobs=(spread.placed(job, number, batch.total) for number, job in enumerate(self._spool.jobs())),
            queues=self._members.queues,
            ordering_lines=self._members.ordering_lines,
            key=key,
            fingerprint=None if self._fingerprint is None else self._fingerprint.digest(),
        )

    def __enter__(self) -> "NdjsonBatch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._spool.close()

    async def _take(self, line: bytes, slices: TimeSlices) -> None:
        pointer, where = f"/{self._number}", f"line {self._number}: "
        if self._members.total == MAX_LINES:
            raise TooLarge(f"more than {MAX_LINES} lines")
        try:
            parsed = await slices.through(json_pieces.read(line, one_line=True))
        except MalformedRequest as refused:
            self._unreadable = True
            self._members.refuse(FieldError(pointer, where + refused.detail))
        except InvalidRequest as refused:
            self._members.refuse(*(FieldError(pointer + e.pointer, where + e.detail) for e in refused.errors))
        else:
            if self._fingerprint is not None:
                self._fingerprint.add(parsed)
            job = await self._members.check(parsed, pointer, where)
            if job is not None:
                self._spool.add(job)
        if self._members.too_many_errors:
            self.submission(None)
