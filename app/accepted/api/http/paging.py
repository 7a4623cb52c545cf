"""Pages of a list: how much is asked for, where it begins, and the address of the next one."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from accepted.api.http.query import Whole
from accepted.api.jobs.answers import JSON
from accepted.domain import json_text
from accepted.errors import FieldError, InvalidRequest

Row = TypeVar("Row")
Position = TypeVar("Position")


class Page(BaseModel):
    """The query of a list. What one adds to it are its filters."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[Whole, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(max_length=100)] | None = None


class Listing:
    """The tenant's list at `path` with the filters of `asked`. A cursor is good for that list only."""

    def __init__(self, path: str, tenant: str, asked: Page) -> None:
        self.filters = asked.model_dump(mode="json", by_alias=True, exclude=set(Page.model_fields), exclude_none=True)
        self._path = path
        self._asked = asked
        self._scope = f"{path} {tenant} {urlencode(self.filters, doseq=True)}"

    def begin(self, read: Callable[[str, str], Position]) -> Position | None:
        """Where the page begins, which `read` (of `accepted.domain.cursor`) finds in the cursor. Raises
        `InvalidRequest`."""
        if self._asked.cursor is None:
            return None
        try:
            return read(self._asked.cursor, self._scope)
        except ValueError:
            raise InvalidRequest([FieldError("/cursor", "is not a cursor of this list")]) from None

    def answer(self, found: Sequence[Row], items: Sequence[object], write: Callable[[Row, str], str]) -> Response:
        """The page: `items` show the rows found, but for the one beyond the limit, which says that there are more.

        `write` (with one of `accepted.domain.cursor`) makes the cursor that goes on after a row.
        """
        limit = self._asked.limit
        next_ = write(found[limit - 1], self._scope) if len(found) > limit else None
        headers = {}
        if next_ is not None:
            query = urlencode({**self.filters, "limit": limit, "cursor": next_}, doseq=True)
            headers["Link"] = f'<{self._path}?{query}>; rel="next"'
        return Response(json_text.encode({"items": items, "next": next_}), headers=headers, media_type=JSON)
