"""Where the jobs of a batch in NDJSON wait until its last line has arrived: in memory at first, then on disk.

All such uploads of a process share one disk, that of `TMPDIR`. Those of one tenant may take as much of it as they leave
free (the dynamic threshold of Choudhury and Hahne, 1998, with the factor 1). So they never fill it: whatever tenants
send, the next one finds room. Several processes on one disk see each other's files as space that is not free.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec
import structlog

from accepted.domain.job import NewJob
from accepted.errors import NoRoom, TooLarge, UploadsFull

MAX_KEPT = 4 * 2**30
"""Bytes on disk for one batch: 4 KiB for each of a million jobs."""

BUFFER = 256 * 1024
"""Bytes of one batch in memory. A batch that is no larger needs no disk. More is written, and reserved, by as much."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(NewJob)

log = structlog.get_logger(__name__)


class SpoolSpace:
    """The disk for the uploads of one process, and how much of it each tenant has reserved."""

    def __init__(self, most: int | None = None) -> None:
        """`most`: bytes for all uploads together; None for all that the disk has."""
        self._most = most
        self._reserved: Counter[str] = Counter()

    @property
    def largest(self) -> int:
        """Bytes that one batch may have, if no other is there."""
        return MAX_KEPT if self._most is None else min(MAX_KEPT, self._most // 2)

    def reserve(self, tenant: str, size: int) -> None:
        """Raises `UploadsFull` if the tenant's uploads take too much, `NoRoom` if it has none and there is no room."""
        held = self._reserved[tenant]
        if held + size > self._free() - size:
            raise self._refusal(held)
        self._reserved[tenant] += size

    def give_back(self, tenant: str, size: int) -> None:
        self._reserved[tenant] -= size
        if not self._reserved[tenant]:
            del self._reserved[tenant]

    def _free(self) -> int:
        with _room():
            disk = os.statvfs(tempfile.gettempdir())
        free = disk.f_bavail * disk.f_frsize
        return free if self._most is None else min(free, self._most - self._reserved.total())

    def _refusal(self, held: int) -> UploadsFull | NoRoom:
        if held:
            return UploadsFull("the uploads of this tenant take as much space as they leave to others")
        log.error("spool_failed", error="nothing is left for one more upload", reserved=self._reserved.total())
        return NoRoom()


class Spool:
    """Jobs in memory and in an unnamed file, which disappears with the process, however it ends."""

    def __init__(self, space: SpoolSpace, tenant: str) -> None:
        self._file = tempfile.SpooledTemporaryFile(BUFFER, buffering=BUFFER)  # noqa: SIM115  (closed by `close`)
        self._space = space
        self._tenant = tenant
        self._size = 0
        self._reserved = 0

    def add(self, job: NewJob) -> None:
        """Raises `TooLarge`, `UploadsFull` and `NoRoom`."""
        line = _encoder.encode(job)
        self._size += len(line) + 1
        if self._size > self._space.largest:
            raise TooLarge(f"the jobs together are larger than {self._space.largest} bytes")
        if self._size > max(self._reserved, BUFFER):
            self._reserve(min(self._size + BUFFER, self._space.largest))
        with _room():
            self._file.write(line + b"\n")

    def jobs(self) -> Iterator[NewJob]:
        """All jobs, read as they are needed. Raises `NoRoom`, before it reads any, when the disk is full."""
        with _room():
            self._file.seek(0)
        return map(_decoder.decode, self._file)

    def close(self) -> None:
        with suppress(OSError):  # the file is not needed any more
            self._file.close()
        self._space.give_back(self._tenant, self._reserved)

    def _reserve(self, size: int) -> None:
        self._space.reserve(self._tenant, size - self._reserved)
        self._reserved = size


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.error("spool_failed", error=str(error))
        raise NoRoom from error
