"""Query parameters: unknown and repeated ones are refused; `Page` and `Listing` page through a list with a cursor."""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from accepted.api.http.answers import JSON
from accepted.domain import json_text
from accepted.domain.ids import link
from accepted.domain.json_text import escape_pointer
from accepted.errors import FieldError, Hints, InvalidRequest

PAGE_BYTES = 2 * 2**20
"""Bytes of items after which a page ends, so that several requests at once need little memory. It has one at least."""

FIRST_CHUNK = 2
"""Rows that are read first where one may have hundreds of kilobytes; a further chunk has up to four times as many."""

Row = TypeVar("Row")
Position = TypeVar("Position")


def _digits(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+", value):
        raise ValueError("must be a whole number")
    return value


def without_nul(text: str) -> str:
    """PostgreSQL's text cannot hold NUL, so the query would fail."""
    if "\0" in text:
        raise ValueError("must not hold NUL")
    return text


LISTS = frozenset({"ids"})
"""Query parameters that may be repeated. A test compares them with the OpenAPI document."""

Whole = Annotated[int, BeforeValidator(_digits)]
"""A whole number in digits. Python's `int` also reads `1_0`, and pydantic reads `1.0`."""


def only_query(*known: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses every query parameter but `known`. Async, because others run in a thread."""

    async def dependency(request: Request) -> None:
        refuse_unknown_query(request, *known)

    return dependency


def refuse_unknown_query(request: Request, *known: str) -> None:
    """Raise `InvalidRequest`, with the nearest known name, for query parameters that are not in `known`.

    A misspelled filter that is ignored silently would select everything.
    """
    if not request.scope["query_string"]:
        return
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        hints = Hints()
        raise InvalidRequest([_unknown(name, known, hints) for name in unknown[:20]])


async def refuse_repeated_query(request: Request) -> None:
    """Raise `InvalidRequest` for a query parameter that is given twice and is no list, whatever the route declares.

    FastAPI would use the last value, a proxy or a log may show the first.
    """
    if b"&" not in request.scope["query_string"]:
        return
    given = Counter(name for name, _ in request.query_params.multi_items())
    repeated = [name for name, times in given.items() if times > 1 and name not in LISTS]
    if repeated:
        raise InvalidRequest([FieldError(f"/{escape_pointer(name)}", "given more than once") for name in repeated[:20]])


class Page(BaseModel):
    """The query of a list. A subclass adds the filters of its list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[Whole, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(max_length=100)] | None = None

    def filters(self) -> dict[str, Any]:
        """The filters that are given, as query parameters."""
        return self.model_dump(mode="json", by_alias=True, exclude=set(Page.model_fields), exclude_none=True)


class Listing:
    """One page of a tenant's list at `path`. A cursor is valid only for its `scope`: this path, tenant and filters."""

    def __init__(self, path: str, tenant: str, query: Page) -> None:
        self.filters = query.filters()
        self._path = path
        self._query = query
        self.scope = f"{path} {tenant} {urlencode(self.filters, doseq=True)}"

    def begin(self, read: Callable[[str, str], Position]) -> Position | None:
        """The position in the cursor, which `read` (of `accepted.domain.cursor`) decodes; None on the first page.

        Raises `InvalidRequest`.
        """
        if self._query.cursor is None:
            return None
        try:
            return read(self._query.cursor, self.scope)
        except ValueError:
            raise InvalidRequest([FieldError("/cursor", "is not a cursor of this list")]) from None

    def answer(
        self,
        found: Sequence[Row],
        items: Sequence[object],
        write: Callable[[Row, str], str],
        more: Mapping[str, object] = MappingProxyType({}),
        stopped_at: Callable[[str], str] | None = None,
    ) -> Response:
        """As many of `items`, one for each row, as `limit` and `PAGE_BYTES` allow, and `more` beside them.

        `found` has up to `limit` + 1 rows; a row that is left out means a next page. `write` encodes the cursor
        that continues after a row, with a function of `accepted.domain.cursor`; `stopped_at`, that which continues
        where a search has stopped, if it has.
        """
        shown = as_many_as_fit(items[: self._query.limit])
        next_ = None if stopped_at is None else stopped_at(self.scope)
        if len(found) > len(shown):
            next_ = write(found[len(shown) - 1], self.scope)
        headers = {}
        if next_ is not None:
            query = urlencode({**self.filters, "limit": self._query.limit, "cursor": next_}, doseq=True)
            headers["Link"] = f'<{link(self._path)}?{query}>; rel="next"'
        body = json_text.encode({"items": shown, "next": next_, **more})
        return Response(body, headers=headers, media_type=JSON)


async def in_chunks(
    read: Callable[[Position | None, int], Awaitable[Sequence[Row]]],
    begin: Position | None,
    limit: int,
    position: Callable[[Row], Position],
    size: Callable[[Row], int],
    first: int = FIRST_CHUNK,
) -> list[Row]:
    """The rows of a page of up to `limit`, and one more if there is one, read by `read(after, count)` chunk by chunk.

    Stops early once they have more than `PAGE_BYTES`: `size` is the bytes of a row that may be large. The first
    chunk has `first` rows.
    """
    found: list[Row] = []
    after, chunk, left = begin, first, PAGE_BYTES
    while left >= 0 and len(found) <= limit:
        wanted = min(chunk, limit + 1 - len(found))
        rows = await read(after, wanted)
        found += rows
        if len(rows) < wanted:
            break
        after = position(rows[-1])
        used = sum(map(size, rows))
        left -= used
        chunk = max(1, min(4 * chunk, left * len(rows) // max(used, 1)))
    return found


def as_many_as_fit(items: Sequence[object], beside: Sequence[int] | None = None) -> list[msgspec.Raw]:
    """The first of `items` as JSON: one, and the following ones up to `PAGE_BYTES`.

    `beside` has the bytes that the answer has for each item in another member.
    """
    shown: list[msgspec.Raw] = []
    left = PAGE_BYTES
    for item, more in zip(items, beside or [0] * len(items), strict=True):
        encoded = json_text.encode(item)
        left -= len(encoded) + more
        if left < 0 and shown:
            break
        shown.append(msgspec.Raw(encoded))
    return shown


def say_objects(document: dict[str, Any]) -> None:
    """Write into an OpenAPI document that query parameters which are objects are sent as `name[key]=value`."""
    for operation in (each for path in document["paths"].values() for each in path.values()):
        for parameter in operation.get("parameters", ()):
            kinds = [kind.get("type") for kind in (parameter["schema"], *parameter["schema"].get("anyOf", ()))]
            if parameter["in"] == "query" and "object" in kinds:
                parameter |= {"style": "deepObject", "explode": True}


def _unknown(name: str, known: tuple[str, ...], hints: Hints) -> FieldError:
    return FieldError(f"/{escape_pointer(name)}", f"unknown query parameter{hints.about(name, known)}")
