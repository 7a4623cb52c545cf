"""GET /schedules/{name}/runs, and POST /schedules/{name}/trigger."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from app import errors
from app.api.auth import Reader, Writer, documented
from app.api.job_answers import JSON, header_docs, monitor_headers
from app.api.problems import responses_for
from app.api.query import only_query
from app.api.representations import JobView
from app.api.schedule_schemas import Page, RunPage
from app.api.schedules import known, page_answer
from app.api.state import state_of
from app.domain import cursor, json_text
from app.domain.job import to_wire
from app.errors import FieldError, InvalidRequest
from app.services import schedules as service
from app.storage import schedule_runs
from app.storage.engine import reading
from app.storage.schedule_runs import Run

router = APIRouter(tags=["schedules"], dependencies=documented)

NOBODY = UUID(int=0)
"""In a cursor: no two runs of a schedule are of the same time, so nothing has to tell them apart."""

_REFUSED = (
    errors.NotFound, errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable,
)  # fmt: skip


@router.get(
    "/schedules/{name}/runs",
    response_model=RunPage,
    responses={200: {"description": "A page.", "headers": header_docs("Link")}, **responses_for(*_REFUSED)},
)
async def list_(request: Request, who: Reader, name: str, asked: Annotated[Page, Query()]) -> Response:
    """What became of each time of this schedule, newest first; those of an earlier schedule of that name, too."""
    engine = state_of(request).engine
    await service.find(engine, who.tenant, known(name))
    scope = f"schedule-runs {who.tenant} {name}"
    before = None if asked.cursor is None else _position(asked.cursor, scope)
    async with reading(engine) as conn:
        page = await schedule_runs.page(conn, who.tenant, name, before, asked.limit + 1)
    more = len(page) > asked.limit
    next_ = cursor.write_moment(page[asked.limit - 1].scheduled_at, NOBODY, scope) if more else None
    return page_answer(f"/schedules/{name}/runs", [_shown(one) for one in page[: asked.limit]], next_, asked.limit)


@router.post(
    "/schedules/{name}/trigger",
    status_code=202,
    response_model=JobView,
    dependencies=[Depends(only_query())],
    responses={
        202: {
            "description": "The job is committed.",
            "headers": header_docs("Location", "Operation-Location", "Link", "Retry-After"),
        },
        **responses_for(*_REFUSED, errors.Conflict, errors.TooLarge),
    },
)
async def trigger(request: Request, who: Writer, name: str) -> Response:
    """Submit the job of this schedule now, whatever its line and `overlap` say, and also while it rests."""
    state = state_of(request)
    job = await service.trigger(state.engine, state.broker, state.intake, who.tenant, known(name))
    return Response(json_text.encode(to_wire(job)), 202, monitor_headers(job), media_type=JSON)


def _position(given: str, scope: str) -> datetime:
    try:
        return cursor.read_moment(given, scope)[0]
    except ValueError:
        raise InvalidRequest([FieldError("/cursor", "is not a cursor of this list")]) from None


def _shown(run: Run) -> dict[str, object]:
    return {name: getattr(run, name) for name in Run.__struct_fields__}
