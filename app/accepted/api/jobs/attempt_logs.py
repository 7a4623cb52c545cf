"""GET /jobs/{id}/logs: what the handler has logged, attempt by attempt."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import header_docs
from accepted.api.http.auth import Reader, documented
from accepted.api.http.parameters import PAGE_BYTES, Listing, Page, Whole, as_many_as_fit
from accepted.api.http.problems import REFUSALS, responses_for
from accepted.api.jobs.reading import find
from accepted.api.state import state_of
from accepted.domain import cursor
from accepted.services.jobs.attempt_logs import ALL_ATTEMPTS, LoggedLine, lines_after
from accepted.storage.db.engine import reading

router = APIRouter(tags=["jobs"], dependencies=documented)

MOST_LINES = 2000
"""Lines of a page: two attempts with all that they keep."""


class LogPage(Page):
    """The query of a log."""

    limit: Annotated[Whole, Field(ge=1, le=MOST_LINES)] = MOST_LINES
    attempt: Annotated[Whole, Field(ge=1, le=ALL_ATTEMPTS, description="Only of this attempt.")] | None = None


class LineView(BaseModel):
    """A line that a handler has logged, or one that says how many lines were `dropped` before the next."""

    attempt: int
    at: datetime
    level: str
    message: str
    fields: dict[str, Any]


class LinePage(BaseModel):
    """A page of lines, the oldest first; `next` is the cursor of the next page."""

    items: list[LineView]
    next: str | None
    resume: str | None = Field(description="The cursor for lines that are logged later; null before the first line.")


@router.get(
    "/jobs/{job_id}/logs",
    response_model=LinePage,
    responses={
        200: {"description": "A page.", "headers": header_docs("Link")},
        **responses_for(errors.ResourceNotFound, errors.Gone, *REFUSALS),
    },
)
async def logs(request: Request, who: Reader, job_id: UUID, query: Annotated[LogPage, Query()]) -> Response:
    """What the handler has logged: of each attempt the last 1,000 lines and 64 KiB, a second after they are logged.

    Workers that lease jobs over HTTP keep no log here.
    """
    state = state_of(request)
    await find(state, who.tenant, job_id)
    listing = Listing(f"/jobs/{job_id}/logs", who.tenant, query)
    attempt, number = listing.begin(cursor.read_line) or (query.attempt or 0, 0)
    until = query.attempt or ALL_ATTEMPTS
    async with reading(state.engine) as conn:
        found = await lines_after(conn, job_id, attempt, number, until, query.limit, PAGE_BYTES)
    shown = as_many_as_fit([_shown(line) for line in found[: query.limit]])
    resume = _cursor(found[len(shown) - 1], listing.scope) if shown else query.cursor
    return listing.answer(found, shown, _cursor, {"resume": resume})


def _cursor(line: LoggedLine, scope: str) -> str:
    return cursor.write_line(line.attempt, line.number, scope)


def _shown(line: LoggedLine) -> dict[str, object]:
    return {
        "attempt": line.attempt,
        "at": line.at,
        "level": line.level,
        "message": line.message,
        "fields": line.fields,
    }
