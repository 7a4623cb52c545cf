"""Reading what handlers have logged: the lines of a job's attempts, one after the other."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from uuid import UUID

import msgspec

from accepted.storage.attempts import logs
from accepted.storage.attempts.logs import StoredPiece
from accepted.storage.db.statements import Connection

PIECES = 16
"""Pieces that are read at a time, of up to 64 KiB each."""

ALL_ATTEMPTS = 2**31 - 1


class LoggedLine(msgspec.Struct, frozen=True):
    """Line `number` of an attempt. `fields` is a JSON object."""

    attempt: int
    number: int
    at: datetime
    level: str
    message: str
    fields: msgspec.Raw


class _Line(msgspec.Struct):
    at: datetime
    level: str
    message: str
    fields: msgspec.Raw


_decoder = msgspec.json.Decoder(list[_Line])


async def lines_after(
    conn: Connection, job_id: UUID, attempt: int, number: int, until: int, limit: int, max_bytes: int
) -> list[LoggedLine]:
    """The lines behind line `number` of `attempt`, up to those of attempt `until`, the oldest first.

    Has more than `limit` lines or `max_bytes`, if there are so many. Where lines were dropped, a line says how many.
    """
    found: list[LoggedLine] = []
    size = 0
    while len(found) <= limit and size <= max_bytes:
        pieces = await logs.pieces_after(conn, job_id, attempt, number, until, PIECES)
        new = list(_expanded(pieces, attempt, number))
        found += new
        size += sum(len(one.message) + len(bytes(one.fields)) for one in new)
        if len(pieces) < PIECES:
            break
        attempt, number = pieces[-1].attempt, pieces[-1].last
    return found


def _expanded(pieces: Iterable[StoredPiece], attempt: int, number: int) -> Iterator[LoggedLine]:
    """`attempt` and `number` are those of the line before."""
    for piece in pieces:
        if piece.attempt != attempt:
            attempt, number = piece.attempt, 0
        lines = _decoder.decode(piece.lines)
        for place, line in enumerate(lines, piece.last - len(lines) + 1):
            if place <= number or place < piece.first:
                continue
            if place > number + 1:
                yield _dropped(attempt, place - 1, place - 1 - number, line.at)
            yield LoggedLine(attempt, place, line.at, line.level, line.message, line.fields)
            number = place


def _dropped(attempt: int, number: int, count: int, at: datetime) -> LoggedLine:
    fields = msgspec.Raw(b'{"dropped":%d}' % count)
    return LoggedLine(attempt, number, at, "warning", f"{count} older lines were dropped", fields)
