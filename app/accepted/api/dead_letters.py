"""GET /dead-letters, and decisions about many of them: POST /dead-letters/replay and /dead-letters/discard.

The replay of a single letter is in `accepted.api.jobs.commands`.
"""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, BeforeValidator, Field, StrictBool, StrictStr, field_validator
from starlette.requests import Request
from starlette.responses import Response

from accepted.api.http.answers import JSON, header_docs
from accepted.api.http.auth import Reader, Writer, documented
from accepted.api.http.body import NoNulls, body_docs, read_json
from accepted.api.http.parameters import Listing, Page, only_query
from accepted.api.http.problems import BODY_REFUSALS, REFUSALS, responses_for
from accepted.api.state import State, state_of
from accepted.domain import cursor, json_text
from accepted.domain.failures import FailureClass
from accepted.domain.ids import link
from accepted.domain.job import QUEUE_PATTERN
from accepted.errors import FieldError, InvalidRequest
from accepted.services import manual_retry
from accepted.services.jobs.requests import YEAR, Moment, Number
from accepted.services.jobs.validation import checked
from accepted.storage import dead_letters
from accepted.storage.counts import letter_groups
from accepted.storage.counts.letter_groups import LetterGroup
from accepted.storage.db.engine import reading
from accepted.storage.dead_letters import Letter, LetterFilter

router = APIRouter(tags=["dead letters"], dependencies=documented)

MAX_IDS = 1000
"""Ids in one body; for more, use a filter."""

MAX_IDS_IN_QUERY = 50
"""Ids in one query string; some proxies refuse longer ones."""

MAX_BODY = 64 * 1024
"""Bytes: `MAX_IDS` ids and a few filters."""


def _split(value: object) -> object:
    """Read `ids=a,b` as `ids=a&ids=b`."""
    if not isinstance(value, list):
        return value
    return [part for one in value for part in (one.split(",") if isinstance(one, str) else [one])]


class LetterSelection(NoNulls):
    """Selects the letters that match all given filters; letters of internal types only by type, queue or ids."""

    queue: Annotated[StrictStr, Field(pattern=QUEUE_PATTERN)] | None = None
    type: Annotated[StrictStr, Field(max_length=100)] | None = None
    class_: FailureClass | None = Field(None, alias="class")
    before: Moment | None = Field(None, description="failed earlier than this")
    ids: Annotated[list[UUID], Field(max_length=MAX_IDS)] | None = None

    @field_validator("type")
    @classmethod
    def _holds_no_nul(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("must not hold NUL")
        return value

    def filter(self) -> LetterFilter:
        return LetterFilter(queue=self.queue, type=self.type, class_=self.class_, before=self.before, ids=self.ids)


class LetterQuery(Page, LetterSelection):
    """The query of GET /dead-letters."""

    ids: Annotated[list[UUID], Field(max_length=MAX_IDS_IN_QUERY), BeforeValidator(_split)] | None = None
    group: Literal["error"] | None = None


class DiscardRequest(LetterSelection):
    """Which letters to discard."""

    dry_run: StrictBool = Field(False, description="count only")


class ReplayRequest(DiscardRequest):
    """Which letters to replay, and how fast."""

    spread_over: Annotated[Number, Field(ge=0, le=YEAR, description="seconds over which the runs begin, evenly")] = 0.0


class LetterLinks(BaseModel):
    job: str
    attempts: str
    replay: str


class LetterView(BaseModel):
    """A failed job that awaits a decision; `id` is that of the job."""

    id: UUID
    job_id: UUID
    type: str
    queue: str
    class_: FailureClass = Field(alias="class")
    message: str
    attempt: int
    failed_at: datetime
    links: LetterLinks


class LetterPage(BaseModel):
    """A page of letters, the newest failure first; `next` is the cursor of the next page."""

    items: list[LetterView]
    next: str | None


class GroupView(BaseModel):
    """Letters with the same error. In `message`, `…` replaces numbers and ids; `example` is the newest letter."""

    type: str
    queue: str
    class_: FailureClass = Field(alias="class")
    message: str
    count: int
    first_at: datetime
    last_at: datetime
    example: UUID


class GroupPage(BaseModel):
    """Up to `limit` groups, the largest first."""

    items: list[GroupView]
    next: None


class ReplayedView(BaseModel):
    matched: int
    replayed: int


class DiscardedView(BaseModel):
    matched: int
    discarded: int


@router.get(
    "/dead-letters",
    response_model=LetterPage | GroupPage,
    responses={200: {"description": "A page.", "headers": header_docs("Link")}, **responses_for(*REFUSALS)},
)
async def list_(request: Request, who: Reader, query: Annotated[LetterQuery, Query()]) -> Response:
    """The failed jobs that await a decision, or, with `group=error`, their errors with counts."""
    state = state_of(request)
    if query.group is not None:
        return await _grouped(state, who.tenant, query)
    listing = Listing("/dead-letters", who.tenant, query)
    after = listing.begin(cursor.read_moment)
    async with reading(state.engine) as conn:
        found = await dead_letters.page(conn, who.tenant, query.filter(), after, query.limit + 1)
    items = [_letter(one) for one in found[: query.limit]]
    return listing.answer(found, items, lambda one, scope: cursor.write_moment(one.failed_at, one.job_id, scope))


@router.post(
    "/dead-letters/replay",
    response_model=ReplayedView,
    dependencies=[Depends(only_query())],
    responses=responses_for(*BODY_REFUSALS),
    openapi_extra=body_docs(ReplayRequest),
)
async def replay(request: Request, who: Writer) -> Response:
    """Run the jobs of all matching letters again, with a fresh retry budget, evenly over `spread_over` seconds."""
    wanted = checked(ReplayRequest, await read_json(request, MAX_BODY))
    engine = state_of(request).engine
    if wanted.dry_run:
        counts = await manual_retry.count_letters(engine, who.tenant, wanted.filter())
    else:
        counts = await manual_retry.replay_letters(engine, who.tenant, wanted.filter(), wanted.spread_over)
    return Response(json_text.encode({"matched": counts.matched, "replayed": counts.done}), media_type=JSON)


@router.post(
    "/dead-letters/discard",
    response_model=DiscardedView,
    dependencies=[Depends(only_query())],
    responses=responses_for(*BODY_REFUSALS),
    openapi_extra=body_docs(DiscardRequest),
)
async def discard(request: Request, who: Writer) -> Response:
    """Discard all matching letters. Their jobs keep their status."""
    wanted = checked(DiscardRequest, await read_json(request, MAX_BODY))
    engine = state_of(request).engine
    act = manual_retry.count_letters if wanted.dry_run else manual_retry.discard_letters
    counts = await act(engine, who.tenant, wanted.filter())
    return Response(json_text.encode({"matched": counts.matched, "discarded": counts.done}), media_type=JSON)


async def _grouped(state: State, tenant: str, query: LetterQuery) -> Response:
    if query.cursor is not None:
        raise InvalidRequest([FieldError("/cursor", "groups have one page: use filters to see fewer of them")])
    async with reading(state.engine) as conn:
        found = await letter_groups.groups(conn, tenant, query.filter(), query.limit)
    return Response(json_text.encode({"items": [_group(one) for one in found], "next": None}), media_type=JSON)


def _letter(letter: Letter) -> dict[str, object]:
    job = link(f"/jobs/{letter.job_id}")
    return {
        "id": letter.job_id,
        "job_id": letter.job_id,
        "type": letter.type,
        "queue": letter.queue,
        "class": letter.class_,
        "message": letter.message,
        "attempt": letter.attempt,
        "failed_at": letter.failed_at,
        "links": {"job": job, "attempts": f"{job}/attempts", "replay": link(f"/dead-letters/{letter.job_id}/replay")},
    }


def _group(group: LetterGroup) -> dict[str, object]:
    return {
        "type": group.type,
        "queue": group.queue,
        "class": group.class_,
        "message": group.message,
        "count": group.count,
        "first_at": group.first_at,
        "last_at": group.last_at,
        "example": group.example,
    }
