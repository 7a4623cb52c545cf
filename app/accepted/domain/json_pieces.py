"""The reader of `json_text` for large bodies: in steps of about a millisecond, between which other work can run.

The C scanner holds the interpreter's lock for the whole of an array, so a thread would not let others run. Here it
reads one value of up to `WINDOW` characters at a time; larger arrays and objects are walked in Python.
"""

import json
from collections.abc import Generator
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]
from typing import Any, TypeAlias

import msgspec

from accepted.domain import json_text
from accepted.domain.json_text import MAX_DEPTH, ParsedJSON, escape_pointer
from accepted.errors import FieldError, InvalidRequest, MalformedRequest, TooLarge

LARGE = 32 * 1024
"""Bytes above which a text is read in pieces."""

WINDOW = 4096

WASTE = 8
"""Windows that end inside of a value may be as many as this many times the text; then everything is walked."""

_SEARCHED = 64 * 1024

Steps: TypeAlias = Generator[None, None, ParsedJSON]
"""Ends with the value."""


class Apart(msgspec.Struct, frozen=True):
    """The items of the array `name` in the body are left unread, up to `count` of them.

    Each may have `size` characters, and so may all that is beside them.
    """

    name: str
    count: int
    size: int


class Unread(msgspec.Struct, frozen=True):
    """The text of an item that is known to be valid."""

    text: str

    def read(self) -> Steps:
        """The item, in steps."""
        return read(self.text.encode())


def read(raw: bytes, apart: Apart | None = None, *, one_line: bool = False) -> Steps:
    """As `json_text.parse`, in steps. Raises `TooLarge` and `InvalidRequest` for items beyond the limits of `apart`."""
    if len(raw) <= LARGE:
        return json_text.parse(raw, one_line=one_line)
    try:
        text = raw.decode("utf-8").rstrip(json_text.JSON_WHITESPACE)
    except UnicodeDecodeError:
        raise MalformedRequest(f"{json_text.subject(one_line)} is not UTF-8") from None
    is_suspicious = False
    for start in range(0, len(raw), _SEARCHED):
        yield
        is_suspicious = is_suspicious or json_text.is_suspicious(
            raw[start : start + _SEARCHED + json_text.LONGEST_SIGN]
        )
    reader = _Reader(text, apart, is_suspicious)
    try:
        value = yield from reader.steps()
    except _BadSyntax as bad:
        raise json_text.malformed(text, bad.position, one_line) from None
    if reader.refused is not None:
        raise reader.refused
    return value


class _BadSyntax(Exception):
    def __init__(self, position: int) -> None:
        self.position = position


class _Reader:
    """`refused` is the first error of a value that is valid JSON: one of the syntax comes before it, wherever it is."""

    def __init__(self, text: str, apart: Apart | None, is_suspicious: bool) -> None:
        self.refused: InvalidRequest | MalformedRequest | None = None
        self._text = text
        self._apart = apart
        self._checks = is_suspicious
        self._scan = json_text.scanner(careful=is_suspicious)
        self._open: list[Any] = []
        self._names: list[str] = []
        """For each open object, the key that is being read; "" for an array."""
        self._with_doubles: set[int] = set()
        self._wasted = 0
        self._item_at = 0
        self._apart_at = 0
        self._spent = 0
        self._items: list[Unread] | None = None

    def steps(self) -> Steps:
        position = self._after_space(0)
        while True:
            yield
            position = self._many(position)
            value, position = self._value(position)
            if value is _OPENED:
                position = self._after_space(position)
                is_empty = self._text[position : position + 1] == ("}" if self._in_object() else "]")
                if not is_empty:
                    position = self._next_member(position)
                    continue
                value, position = self._close(), position + 1
            while self._open:
                self._add(value, position)
                position = self._after_space(position)
                mark = self._text[position : position + 1]
                if mark == ",":
                    position = self._next_member(self._after_space(position + 1))
                    break
                if mark != ("}" if self._in_object() else "]"):
                    raise _BadSyntax(position)
                value, position = self._close(), position + 1
            else:
                if position != len(self._text):
                    raise _BadSyntax(position)
                return value  # type: ignore[no-any-return]

    def _value(self, position: int) -> tuple[Any, int]:
        """The value at `position` and where it ends; `_OPENED` for a large one, whose members follow."""
        is_container = self._text[position : position + 1] in ("[", "{")
        try:
            if not is_container or len(self._text) - position <= WINDOW:
                value, end = self._scan(self._text, position)
                return self._checked(value, end, position)
        except StopIteration as stop:
            raise _BadSyntax(stop.value) from None
        except json.JSONDecodeError as error:
            raise _BadSyntax(error.pos) from None
        if self._wasted <= WASTE * len(self._text):
            try:
                value, length = self._scan(self._text[position : position + WINDOW], 0)
            except (StopIteration, json.JSONDecodeError, RecursionError):
                self._wasted += WINDOW
            else:
                return self._checked(value, position + length, position)
        if len(self._open) == MAX_DEPTH:
            raise json_text.too_deep()
        is_object = self._text[position] == "{"
        self._open.append({} if is_object else [])
        self._names.append("")
        if self._apart is not None and len(self._open) == 2 and not is_object and self._names[0] == self._apart.name:
            self._items = []
            self._apart_at = position
        return _OPENED, position + 1

    def _many(self, position: int) -> int:
        """Read the members of an array that end before the last comma of the window, if that comma is between members.

        Returns where the next member begins. It may be that none was read.
        """
        is_apart = self._items is not None and len(self._open) == 2
        if not self._open or self._in_object() or is_apart or self._wasted > WASTE * len(self._text):
            return position
        cut = self._text.rfind(",", position, position + WINDOW)
        if cut < 0:
            return position
        part = f"[{self._text[position:cut]}]"
        try:
            found, end = self._scan(part, 0)
        except (StopIteration, json.JSONDecodeError, RecursionError):
            end = -1
        if end != len(part) or not found:  # the comma is inside a member, or behind the end of the array
            self._wasted += WINDOW
            return position
        json_text.check_depth(self._text[position:cut].encode(), MAX_DEPTH - len(self._open))
        for value in found:
            self._check(value, len(self._open))
            self._add(value, cut)
        return self._after_space(cut + 1)

    def _checked(self, value: Any, end: int, start: int) -> tuple[Any, int]:
        if isinstance(value, (dict, list)):
            json_text.check_depth(self._text[start:end].encode(), MAX_DEPTH - len(self._open))
        self._check(value, len(self._open))
        return value, end

    def _check(self, value: Any, levels: int) -> None:
        if not self._checks or self.refused is not None:
            return
        try:
            json_text.check_values(value, "")
        except InvalidRequest as refused:
            around = self._pointer(levels)
            self.refused = InvalidRequest([FieldError(around + one.pointer, one.detail) for one in refused.errors])
        except MalformedRequest as refused:
            self.refused = refused

    def _pointer(self, levels: int) -> str:
        steps = [self._names[at] if isinstance(self._open[at], dict) else str(self._length(at)) for at in range(levels)]
        return "".join(f"/{escape_pointer(step)}" for step in steps)

    def _length(self, at: int) -> int:
        return len(self._items) if at == 1 and self._items is not None else len(self._open[at])

    def _next_member(self, position: int) -> int:
        """Read the key of an object's next member. Returns where its value begins."""
        if len(self._open) == 2:
            self._item_at = position
        if not self._in_object():
            return position
        if self._text[position : position + 1] != '"':
            raise _BadSyntax(position)
        try:
            key, position = scanstring(self._text, position + 1, True)
        except json.JSONDecodeError as error:
            raise _BadSyntax(error.pos) from None
        if key in self._open[-1]:
            self._with_doubles.add(len(self._open))
        self._check(key, len(self._open) - 1)
        self._names[-1] = key
        position = self._after_space(position)
        if self._text[position : position + 1] != ":":
            raise _BadSyntax(position)
        return self._after_space(position + 1)

    def _add(self, value: Any, end: int) -> None:
        around = self._open[-1]
        if self._apart is not None and self._items is None:
            if isinstance(value, list) and value and isinstance(value[-1], Unread):
                self._spent += end - self._apart_at
            elif end - self._spent > self._apart.size:
                raise TooLarge(f"what is beside {self._apart.name} is larger than {self._apart.size} characters")
        if self._items is not None and self._apart is not None:
            if end - self._item_at > self._apart.size:
                raise TooLarge(f"{self._apart.name}/{len(self._items)} is larger than {self._apart.size} characters")
            if len(self._open) == 2:
                if len(self._items) == self._apart.count:
                    detail = f"more than {self._apart.count} items"
                    raise InvalidRequest([FieldError(f"/{self._apart.name}", detail)])
                self._items.append(Unread(self._text[self._item_at : end]))
                return
        if isinstance(around, dict):
            around[self._names[-1]] = value
        else:
            around.append(value)

    def _close(self) -> Any:
        """The innermost open value, which is complete. Raises for a key that it has twice."""
        if len(self._open) in self._with_doubles:
            raise MalformedRequest("an object has the same key twice")
        closed = self._open.pop()
        self._names.pop()
        if len(self._open) == 1 and self._items is not None:
            closed, self._items = self._items, None
        return closed

    def _in_object(self) -> bool:
        return isinstance(self._open[-1], dict)

    def _after_space(self, position: int) -> int:
        found = WHITESPACE.match(self._text, position)
        return position if found is None else found.end()


_OPENED = object()
