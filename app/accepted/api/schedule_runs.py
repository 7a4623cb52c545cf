"""GET /schedules/{name}/runs, and POST /schedules/{name}/trigger."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON, header_docs
from accepted.api.http.auth import Reader, Writer, documented
from accepted.api.http.parameters import Listing, Page, only_query
from accepted.api.http.problems import responses_for
from accepted.api.jobs.answers import monitor_headers
from accepted.api.schedule_schemas import RunPage
from accepted.api.schedules import known
from accepted.api.schemas import JobView
from accepted.api.state import state_of
from accepted.domain import cursor, json_text
from accepted.domain.job import to_wire
from accepted.services import schedules as service
from accepted.storage import schedules
from accepted.storage.db.engine import reading
from accepted.storage.schedules import ScheduleRun

router = APIRouter(tags=["schedules"], dependencies=documented)

NOBODY = UUID(int=0)
"""In a cursor: no two runs of a schedule are of the same time, so nothing has to tell them apart."""

_REFUSED = (
    errors.ResourceNotFound, errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable,
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
    listing = Listing(f"/schedules/{name}/runs", who.tenant, asked)
    before = listing.begin(cursor.read_moment)
    async with reading(engine) as conn:
        found = await schedules.page_of_runs(conn, who.tenant, name, before and before[0], asked.limit + 1)
    items = [_shown(one) for one in found[: asked.limit]]
    return listing.answer(found, items, lambda one, scope: cursor.write_moment(one.scheduled_at, NOBODY, scope))


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
    job = await service.trigger(state.engine, state.broker, state.job_checks, who.tenant, known(name))
    return Response(json_text.encode(to_wire(job)), 202, monitor_headers(job), media_type=JSON)


def _shown(run: ScheduleRun) -> dict[str, object]:
    return {name: getattr(run, name) for name in ScheduleRun.__struct_fields__}
