"""GET /dead-letters, and what is counts about many of them: replay and discard."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.dead_letter_schemas import (
    DiscardedView,
    DiscardRequest,
    GroupPage,
    LetterPage,
    LetterQuery,
    ReplayedView,
    ReplayRequest,
)
from accepted.api.http.answers import JSON, header_docs
from accepted.api.http.auth import Reader, Writer, documented
from accepted.api.http.body import body_docs, read_json
from accepted.api.http.parameters import Listing, only_query
from accepted.api.http.problems import responses_for
from accepted.api.state import State, state_of
from accepted.domain import cursor, json_text
from accepted.errors import FieldError, InvalidRequest
from accepted.services import manual_retry
from accepted.services.jobs.validation import checked
from accepted.storage import dead_letters
from accepted.storage.db.engine import reading
from accepted.storage.dead_letters import Group, Letter

router = APIRouter(tags=["dead letters"], dependencies=documented)

_DENIED = (errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable)
_WITH_BODY = responses_for(errors.MalformedRequest, errors.UnsupportedMedia, errors.TooLarge, *_DENIED)

MAX_BODY = 64 * 1024
"""Bytes: `MAX_IDS` ids and a few filters."""


@router.get(
    "/dead-letters",
    response_model=LetterPage | GroupPage,
    responses={200: {"description": "A page.", "headers": header_docs("Link")}, **responses_for(*_DENIED)},
)
async def list_(request: Request, who: Reader, asked: Annotated[LetterQuery, Query()]) -> Response:
    """The failed jobs that somebody has still to decide about, or with `group=error` what they have in common."""
    state = state_of(request)
    if asked.group is not None:
        return await _grouped(state, who.tenant, asked)
    listing = Listing("/dead-letters", who.tenant, asked)
    after = listing.begin(cursor.read_moment)
    async with reading(state.engine) as conn:
        found = await dead_letters.page(conn, who.tenant, asked.filter(), after, asked.limit + 1)
    items = [_letter(one) for one in found[: asked.limit]]
    return listing.answer(found, items, lambda one, scope: cursor.write_moment(one.failed_at, one.job_id, scope))


@router.post(
    "/dead-letters/replay",
    response_model=ReplayedView,
    dependencies=[Depends(only_query())],
    responses=_WITH_BODY,
    openapi_extra=body_docs(ReplayRequest),
)
async def replay(request: Request, who: Writer) -> Response:
    """Run the jobs of all matching letters again, with a fresh retry budget, evenly over `spread_over` seconds."""
    asked = checked(ReplayRequest, await read_json(request, MAX_BODY))
    engine = state_of(request).engine
    if asked.dry_run:
        counts = await manual_retry.count_letters(engine, who.tenant, asked.filter())
    else:
        counts = await manual_retry.replay_letters(engine, who.tenant, asked.filter(), asked.spread_over)
    return Response(json_text.encode({"matched": counts.matched, "replayed": counts.done}), media_type=JSON)


@router.post(
    "/dead-letters/discard",
    response_model=DiscardedView,
    dependencies=[Depends(only_query())],
    responses=_WITH_BODY,
    openapi_extra=body_docs(DiscardRequest),
)
async def discard(request: Request, who: Writer) -> Response:
    """Nothing more is to be done about all matching letters. Their jobs keep their status."""
    asked = checked(DiscardRequest, await read_json(request, MAX_BODY))
    engine = state_of(request).engine
    act = manual_retry.count_letters if asked.dry_run else manual_retry.discard_letters
    counts = await act(engine, who.tenant, asked.filter())
    return Response(json_text.encode({"matched": counts.matched, "discarded": counts.done}), media_type=JSON)


async def _grouped(state: State, tenant: str, asked: LetterQuery) -> Response:
    if asked.cursor is not None:
        raise InvalidRequest([FieldError("/cursor", "groups come on one page: narrow them down by filters")])
    async with reading(state.engine) as conn:
        found = await dead_letters.groups(conn, tenant, asked.filter(), asked.limit)
    return Response(json_text.encode({"items": [_group(one) for one in found], "next": None}), media_type=JSON)


def _letter(letter: Letter) -> dict[str, object]:
    job = f"/jobs/{letter.job_id}"
    return {
        "id": letter.job_id,
        "job_id": letter.job_id,
        "type": letter.type,
        "queue": letter.queue,
        "class": letter.class_,
        "message": letter.message,
        "attempt": letter.attempt,
        "failed_at": letter.failed_at,
        "links": {"job": job, "attempts": f"{job}/attempts", "replay": f"/dead-letters/{letter.job_id}/replay"},
    }


def _group(group: Group) -> dict[str, object]:
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
