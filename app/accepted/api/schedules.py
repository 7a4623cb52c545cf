"""PUT, GET and DELETE /schedules/{name}, GET /schedules, and POST /schedules/preview."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON, header_docs
from accepted.api.http.auth import Reader, Writer, documented
from accepted.api.http.body import body_docs, read_json
from accepted.api.http.parameters import Listing, Page, only_query
from accepted.api.http.problems import responses_for
from accepted.api.jobs.submission import largest_body
from accepted.api.schedule_schemas import (
    SHOWN,
    PreviewRequest,
    PreviewView,
    SchedulePage,
    ScheduleRequest,
    ScheduleView,
)
from accepted.api.state import state_of
from accepted.domain import cursor, json_text
from accepted.domain.cron import warnings
from accepted.domain.job import QUEUE_PATTERN
from accepted.domain.schedule import Schedule
from accepted.errors import FieldError, InvalidRequest, ResourceNotFound
from accepted.services import schedules as service
from accepted.services.jobs.validation import checked
from accepted.storage import schedules as ledger
from accepted.storage.db.engine import reading

router = APIRouter(tags=["schedules"], dependencies=documented)

_DENIED = (errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable)
_ONE = responses_for(errors.ResourceNotFound, errors.InvalidRequest, *_DENIED)
_WITH_BODY = responses_for(
    errors.MalformedRequest, errors.UnsupportedMedia, errors.TooLarge, errors.InvalidRequest, *_DENIED
)

_NAME = re.compile(QUEUE_PATTERN)
_NAMED = {"headers": {"Location": {"description": "the schedule", "schema": {"type": "string"}}}}


@router.get(
    "/schedules",
    response_model=SchedulePage,
    responses={
        200: {"description": "A page.", "headers": header_docs("Link")},
        **responses_for(errors.InvalidRequest, *_DENIED),
    },
)
async def list_(request: Request, who: Reader, asked: Annotated[Page, Query()]) -> Response:
    """The tenant's schedules, by name."""
    listing = Listing("/schedules", who.tenant, asked)
    after = listing.begin(cursor.read_text)
    async with reading(state_of(request).engine) as conn:
        found = await ledger.page(conn, who.tenant, after, asked.limit + 1)
    items = [_shown(one) for one in found[: asked.limit]]
    return listing.answer(found, items, lambda one, scope: cursor.write_text(one.name, scope))


@router.post(
    "/schedules/preview",
    response_model=PreviewView,
    dependencies=[Depends(only_query())],
    responses=_WITH_BODY,
    openapi_extra=body_docs(PreviewRequest),
)
async def preview(request: Request, who: Reader) -> Response:
    """When a line would fire, and what changes of the clock would do to it. Nothing is kept."""
    asked = checked(PreviewRequest, await read_json(request, largest_body(state_of(request).settings)))
    line = service.check_line(asked.cron, asked.timezone)
    after = asked.after or datetime.now(UTC)
    found = line.next_runs(after, asked.count)
    body = {"next_runs": found, "warnings": warnings(line, after, found)}
    return Response(json_text.encode(body), media_type=JSON)


@router.put(
    "/schedules/{name}",
    response_model=ScheduleView,
    dependencies=[Depends(only_query())],
    responses={
        200: {"description": "The schedule was there, and is replaced."},
        201: {"description": "The schedule is new.", "model": ScheduleView, **_NAMED},
        **_WITH_BODY,
    },
    openapi_extra=body_docs(ScheduleRequest),
)
async def put(request: Request, who: Writer, name: str) -> Response:
    """Make this schedule, or replace it as a whole: what is left out has its default again."""
    state = state_of(request)
    if not _NAME.fullmatch(name):
        raise InvalidRequest([FieldError("/name", f"must match {QUEUE_PATTERN}")])
    parsed: Any = await read_json(request, largest_body(state.settings))
    asked = checked(ScheduleRequest, parsed)
    service.check_line(asked.cron, asked.timezone)
    await service.check_job(state.job_checks, who.tenant, parsed["job"])
    wanted = Schedule(
        tenant=who.tenant, name=name, cron=asked.cron, timezone=asked.timezone,
        job=json_text.encode(parsed["job"]).decode(), on_missed=asked.on_missed, overlap=asked.overlap,
        spread_over=asked.spread_over, enabled=asked.enabled,
    )  # fmt: skip
    written, created = await service.put(state.engine, wanted)
    headers = {"Location": f"/schedules/{name}"} if created else {}
    return Response(json_text.encode(_shown(written)), 201 if created else 200, headers, media_type=JSON)


@router.get("/schedules/{name}", response_model=ScheduleView, dependencies=[Depends(only_query())], responses=_ONE)
async def get(request: Request, who: Reader, name: str) -> Response:
    """The schedule, and when it fires next."""
    found = await service.find(state_of(request).engine, who.tenant, known(name))
    return Response(json_text.encode(_shown(found)), media_type=JSON)


@router.delete("/schedules/{name}", status_code=204, dependencies=[Depends(only_query())], responses=_ONE)
async def delete(request: Request, who: Writer, name: str) -> Response:
    """Once this is answered, the schedule does not fire any more. Jobs that it submitted stay."""
    await service.delete(state_of(request).engine, who.tenant, known(name))
    return Response(status_code=204)


def known(name: str) -> str:
    """`name`, if a schedule can have it. Raises `ResourceNotFound`."""
    if not _NAME.fullmatch(name):
        raise ResourceNotFound("no such schedule")
    return name


def _shown(one: Schedule) -> dict[str, object]:
    path = f"/schedules/{one.name}"
    return {
        "name": one.name,
        "cron": one.cron,
        "timezone": one.timezone,
        "job": msgspec.Raw(one.job.encode()),
        "on_missed": one.on_missed,
        "overlap": one.overlap,
        "spread_over": one.spread_over,
        "enabled": one.enabled,
        "next_runs": _next_runs(one),
        "created_at": one.created_at,
        "updated_at": one.updated_at,
        "links": {"self": path, "runs": f"{path}/runs", "trigger": f"{path}/trigger"},
    }


def _next_runs(one: Schedule) -> list[datetime]:
    """None for a schedule that rests: it is turned off, or its line cannot be read any more."""
    try:
        return [] if one.next_at is None else one.line.next_runs(datetime.now(UTC), SHOWN)
    except ValueError:
        return []
