"""Schedules: PUT, GET, DELETE, runs and trigger of /schedules/{name}, GET /schedules, POST /schedules/preview."""

import re
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON, RATE_LIMIT, header_docs, quota_headers
from accepted.api.http.auth import Reader, Writer, documented
from accepted.api.http.body import body_docs, read_json
from accepted.api.http.parameters import Listing, Page, in_chunks, only_query
from accepted.api.http.problems import BODY_REFUSALS, REFUSALS, responses_for
from accepted.api.jobs.answers import MONITORED, JobView, answer_accepted
from accepted.api.jobs.submission import largest_body
from accepted.api.schedule_schemas import (
    SHOWN,
    PreviewRequest,
    PreviewView,
    RunPage,
    SchedulePage,
    ScheduleRequest,
    ScheduleView,
)
from accepted.api.state import state_of
from accepted.domain import cursor, json_text
from accepted.domain.cron import warnings
from accepted.domain.ids import link
from accepted.domain.job import QUEUE_PATTERN
from accepted.domain.schedule import Schedule
from accepted.errors import FieldError, InvalidRequest, ResourceNotFound
from accepted.services import schedules as service
from accepted.services.jobs.submission import Receipt
from accepted.services.jobs.validation import checked
from accepted.storage import schedules as ledger
from accepted.storage.db.engine import reading
from accepted.storage.schedules import ScheduleRun

router = APIRouter(tags=["schedules"], dependencies=documented)

NO_ID = UUID(int=0)
"""Stands for the id in the cursor of a run: the scheduled time alone identifies a run of its schedule."""

_NAME = re.compile(QUEUE_PATTERN)
_NAMED = {"headers": {"Location": {"description": "the schedule", "schema": {"type": "string"}}}}
_ONE = responses_for(errors.ResourceNotFound, *REFUSALS)


@router.get(
    "/schedules",
    response_model=SchedulePage,
    responses={200: {"description": "A page.", "headers": header_docs("Link")}, **responses_for(*REFUSALS)},
)
async def list_(request: Request, who: Reader, query: Annotated[Page, Query()]) -> Response:
    """The tenant's schedules, by name."""
    listing = Listing("/schedules", who.tenant, query)
    after = listing.begin(cursor.read_text)
    async with reading(state_of(request).engine) as conn:
        read = partial(ledger.page, conn, who.tenant)
        found = await in_chunks(read, after, query.limit, lambda one: one.name, lambda one: len(one.job))
    items = [_shown(one) for one in found[: query.limit]]
    return listing.answer(found, items, lambda one, scope: cursor.write_text(one.name, scope))


@router.post(
    "/schedules/preview",
    response_model=PreviewView,
    dependencies=[Depends(only_query())],
    responses=responses_for(*BODY_REFUSALS),
    openapi_extra=body_docs(PreviewRequest),
)
async def preview(request: Request, who: Reader) -> Response:
    """When a cron line fires, and how changes of the clock affect it. Nothing is stored."""
    wanted = checked(PreviewRequest, await read_json(request, largest_body(state_of(request).settings)))
    line = service.check_line(wanted.cron, wanted.timezone)
    after = wanted.after or datetime.now(UTC)
    found = line.next_runs(after, wanted.count)
    body = {"next_runs": found, "warnings": warnings(line, after, found)}
    return Response(json_text.encode(body), media_type=JSON)


@router.put(
    "/schedules/{name}",
    response_model=ScheduleView,
    dependencies=[Depends(only_query())],
    responses={
        200: {"description": "The schedule existed, and is replaced."},
        201: {"description": "The schedule is new.", "model": ScheduleView, **_NAMED},
        **responses_for(*BODY_REFUSALS),
    },
    openapi_extra=body_docs(ScheduleRequest),
)
async def put(request: Request, who: Writer, name: str) -> Response:
    """Make the schedule, or replace all of it: fields that are left out get their defaults."""
    state = state_of(request)
    if not _NAME.fullmatch(name):
        raise InvalidRequest([FieldError("/name", f"must match {QUEUE_PATTERN}")])
    parsed: Any = await read_json(request, largest_body(state.settings))
    body = checked(ScheduleRequest, parsed)
    service.check_line(body.cron, body.timezone)
    await service.check_job(state.job_checks, who.tenant, parsed["job"])
    wanted = Schedule(
        tenant=who.tenant, name=name, cron=body.cron, timezone=body.timezone,
        job=json_text.encode(parsed["job"]).decode(), on_missed=body.on_missed, overlap=body.overlap,
        spread_over=body.spread_over, enabled=body.enabled,
    )  # fmt: skip
    written, created = await service.put(state.engine, wanted)
    headers = {"Location": link(f"/schedules/{name}")} if created else {}
    return Response(json_text.encode(_shown(written)), 201 if created else 200, headers, media_type=JSON)


@router.get("/schedules/{name}", response_model=ScheduleView, dependencies=[Depends(only_query())], responses=_ONE)
async def get(request: Request, who: Reader, name: str) -> Response:
    """The schedule, and its next runs."""
    found = await service.find(state_of(request).engine, who.tenant, _valid(name))
    return Response(json_text.encode(_shown(found)), media_type=JSON)


@router.delete("/schedules/{name}", status_code=204, dependencies=[Depends(only_query())], responses=_ONE)
async def delete(request: Request, who: Writer, name: str) -> Response:
    """Delete the schedule. After the answer it fires no more; jobs that it submitted stay."""
    await service.delete(state_of(request).engine, who.tenant, _valid(name))
    return Response(status_code=204)


@router.get(
    "/schedules/{name}/runs",
    response_model=RunPage,
    responses={
        200: {"description": "A page.", "headers": header_docs("Link")},
        **responses_for(errors.ResourceNotFound, *REFUSALS),
    },
)
async def list_runs(request: Request, who: Reader, name: str, query: Annotated[Page, Query()]) -> Response:
    """What happened at each scheduled time, newest first. Includes runs of an earlier schedule of the same name."""
    engine = state_of(request).engine
    await service.find(engine, who.tenant, _valid(name))
    listing = Listing(f"/schedules/{name}/runs", who.tenant, query)
    before = listing.begin(cursor.read_moment)
    async with reading(engine) as conn:
        found = await ledger.page_of_runs(conn, who.tenant, name, before and before[0], query.limit + 1)
    items = [_run(one) for one in found[: query.limit]]
    return listing.answer(found, items, lambda one, scope: cursor.write_moment(one.scheduled_at, NO_ID, scope))


@router.post(
    "/schedules/{name}/trigger",
    status_code=202,
    response_model=JobView,
    dependencies=[Depends(only_query())],
    responses={
        202: {"description": "The job is committed.", "headers": MONITORED | header_docs(*RATE_LIMIT)},
        **responses_for(
            errors.ResourceNotFound, *REFUSALS, errors.Conflict, errors.TooLarge, errors.QuotaExceeded, errors.QueueFull
        ),
    },
)
async def trigger(request: Request, who: Writer, name: str) -> Response:
    """Submit the job of the schedule now. Neither `cron`, `overlap` nor `enabled` prevents it; limits do."""
    state = state_of(request)
    job = await service.job_of(state.engine, state.job_checks, who.tenant, _valid(name))

    async def insert() -> Receipt:
        receipt = Receipt(await service.trigger(state.engine, state.broker, name, job))
        state.measurements.accepted([job])
        return receipt

    receipt, quota = await state.limited_submissions.accept_by(insert, job)
    answer = answer_accepted(receipt.job)
    answer.headers.update({} if quota is None else quota_headers(quota))
    return answer


def _valid(name: str) -> str:
    """`name`, if it is a valid name of a schedule; else raises `ResourceNotFound`."""
    if not _NAME.fullmatch(name):
        raise ResourceNotFound("no such schedule")
    return name


def _shown(one: Schedule) -> dict[str, object]:
    path = link(f"/schedules/{one.name}")
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
    """Empty for a schedule that is disabled, or whose cron line can no longer be read."""
    try:
        return [] if one.next_at is None else one.line.next_runs(datetime.now(UTC), SHOWN)
    except (ValueError, OverflowError):
        return []


def _run(run: ScheduleRun) -> dict[str, object]:
    return {name: getattr(run, name) for name in ScheduleRun.__struct_fields__}
