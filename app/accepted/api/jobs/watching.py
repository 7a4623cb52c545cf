"""Watching one job: GET /jobs/{id}/events streams what happens to it, GET /jobs/{id}/explain says why it waits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.auth import Reader, authenticate, documented, said, unless_revoked
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import REFUSALS, answer_to, responses_for
from accepted.api.jobs.answers import ErrorView
from accepted.api.jobs.reading import find
from accepted.api.state import state_of
from accepted.domain import history, json_text
from accepted.domain.history import Event
from accepted.domain.job import Job, Status
from accepted.errors import AcceptedError, LedgerUnavailable, Refused, ResourceNotFound
from accepted.services.jobs import explain as explaining
from accepted.services.jobs.watching import Watch

router = APIRouter(tags=["jobs"], dependencies=[*documented, Depends(only_query())])

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, so that no proxy closes the stream as idle."""

LEDGER_AWAY = 1.0
"""Seconds between two questions of a stream to a ledger that is away."""

WAITING = b": waiting\n\n"
SSE = "text/event-stream"

NO_CACHE = {"Cache-Control": "no-cache"}


class NeededView(BaseModel):
    """A job that this one waits for; `status` is null if it no longer exists."""

    id: UUID
    status: Status | None
    to: str = Field(description="What it must do: succeed, or end.")


class ExplanationView(BaseModel):
    """One reason, and the data behind it. `reason` decides which further fields are present."""

    model_config = ConfigDict(extra="allow")

    id: UUID
    status: Status
    reason: str
    detail: str
    due_at: datetime | None = None
    position: int | None = Field(None, description="1: next on its queue.")
    ahead: int | None = None
    expected_start: datetime | None = Field(None, description="From measured rates; null if nothing was measured.")
    waits_for: list[NeededView] = []
    jobs: int | None = Field(None, description="How many jobs it waits for in all.")
    last_error: ErrorView | None = None
    next_attempt: int | None = None
    worker: str | None = None
    since: datetime | None = None
    target: str | None = None
    deferred_until: datetime | None = None
    waiting: int | None = Field(None, description="How many jobs wait for the target.")
    rate_limit: dict[str, Any] | None = None
    max_running: int | None = None
    max_running_per_key: int | None = None
    running: int | None = None
    concurrency_key: str | None = None


@router.get(
    "/jobs/{job_id}/explain",
    response_model=ExplanationView,
    responses=responses_for(errors.ResourceNotFound, errors.Gone, *REFUSALS),
)
async def explain(request: Request, who: Reader, job_id: UUID) -> Response:
    """Why the job is where it is, in a sentence and as data. If several things hold it, the first of them."""
    state = state_of(request)
    job = await find(state, who.tenant, job_id)
    found = await explaining.explain(state.engine, state.broker, job, state.settings.lease_ttl)
    if found is None:
        raise ResourceNotFound("no such job")
    return Response(json_text.encode(found), media_type=JSON)


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    dependencies=[said("jobs:read")],
    responses={
        200: {
            "description": "Events `status` and `progress`, until the job is finished. Comments while nothing happens.",
            "content": {SSE: {}},
        },
        204: {"description": "The job is finished, and `Last-Event-ID` is its last event: do not reconnect."},
        **responses_for(errors.ResourceNotFound, errors.Gone, *REFUSALS),
    },
)
async def events(request: Request, job_id: UUID, last_event_id: Annotated[str | None, Header()] = None) -> Response:
    """The past and future of the job as Server-Sent Events; `Last-Event-ID` resumes an interrupted stream.

    While the ledger is away the stream stays open, and so does a new one: it waits for the ledger, and only then finds
    out who asks and whether there is such a job. If not, it sends the problem as an event `problem`, and ends.
    """
    seen = int(last_event_id) if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 12 else 0
    try:
        job = await _asked_for(request, job_id)
    except LedgerUnavailable:
        return StreamingResponse(_once_the_ledger_is_back(request, job_id, seen), media_type=SSE, headers=NO_CACHE)
    if _knows_all(job, seen):
        return Response(status_code=204, headers=NO_CACHE)  # an EventSource reconnects after any other end
    return StreamingResponse(_stream(request, job, seen), media_type=SSE, headers=NO_CACHE)


async def _asked_for(request: Request, job_id: UUID) -> Job:
    who = await authenticate(request, "jobs:read")
    return await find(state_of(request), who.tenant, job_id)


def _knows_all(job: Job, seen: int) -> bool:
    return job.finished and seen == history.events(job, ())[-1].number


async def _once_the_ledger_is_back(request: Request, job_id: UUID, seen: int) -> AsyncIterator[bytes]:
    """An EventSource gives up for good after any other answer than 200, so this one begins without knowing the job."""
    state = state_of(request)
    while not state.watcher.closed:
        yield WAITING
        try:
            job = await _asked_for(request, job_id)
        except LedgerUnavailable:
            await asyncio.sleep(LEDGER_AWAY)
            continue
        except AcceptedError as error:
            yield _problem(error, request)
            return
        if not _knows_all(job, seen):
            async for frame in _stream(request, job, seen):
                yield frame
        return


async def _stream(request: Request, job: Job, seen: int) -> AsyncIterator[bytes]:
    """What is new to a client that has seen the event `seen`, and what comes, until its key is revoked.

    Waits for a ledger that goes away.
    """
    state = state_of(request)
    if seen > history.events(job, ())[-1].number:
        seen = 0  # an id of another stream, which must not hide the end of this one
    current: Job | None = job
    sent: bytes | None = None
    with state.watcher.watch(job.id) as watch:
        while current is not None:
            try:
                attempts = await state.watcher.attempts(job.id)
            except LedgerUnavailable:
                if state.watcher.closed:
                    return
                yield WAITING
                await asyncio.sleep(LEDGER_AWAY)
                continue
            news = history.events(current, attempts, seen)
            frames = [_status(event) for event in news]
            progress = _progress(current)
            if progress is not None and progress != sent and (news or not current.finished):
                sent = progress
                frames.insert(len(frames) - current.finished, progress)
            for frame in frames:
                yield frame
            seen = news[-1].number if news else seen
            before = current
            while current is before:
                if before.finished or state.watcher.closed:
                    return
                try:
                    current = await _next(request, watch, before)
                except Refused as error:
                    yield _problem(error, request)
                    return
                yield WAITING


async def _next(request: Request, watch: Watch, job: Job) -> Job | None:
    """The job once its state or progress has changed, or `job` itself after `KEEP_ALIVE`. Raises `Unauthenticated`."""
    before = _visible(job)
    async with unless_revoked(request, "jobs:read"):
        with contextlib.suppress(TimeoutError):
            return await watch.until(lambda now: _visible(now) != before, KEEP_ALIVE)
    return job


def _visible(job: Job) -> tuple[object, ...]:
    return job.status, job.attempt, job.progress


def _problem(error: AcceptedError, request: Request) -> bytes:
    return b"event: problem\ndata: %b\n\n" % bytes(answer_to(error, request.scope).body)


def _status(event: Event) -> bytes:
    data = json_text.encode({"status": event.status, "attempt": event.attempt, "at": event.at})
    return b"id: %d\nevent: status\ndata: %b\n\n" % (event.number, data)


def _progress(job: Job) -> bytes | None:
    """Without an id, so a client that reconnects continues after the last status and gets the latest progress again."""
    if job.progress is None:
        return None
    data = json_text.encode({**msgspec.json.decode(job.progress, type=dict[str, Any]), "attempt": job.attempt})
    return b"event: progress\ndata: %b\n\n" % data
