"""GET /jobs/{id}/events: what happens to a job, as Server-Sent Events, until it is finished."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Header
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from accepted import errors
from accepted.api.http.auth import Reader, documented
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import responses_for
from accepted.api.jobs.reading import find
from accepted.api.state import State, state_of
from accepted.domain import history, json_text
from accepted.domain.history import Event
from accepted.domain.job import Job
from accepted.errors import LedgerUnavailable

router = APIRouter(tags=["jobs"], dependencies=[*documented, Depends(only_query())])

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, so that no proxy takes the stream for dead."""


NOT_KEPT = {"Cache-Control": "no-cache"}


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events `status` and `progress`, until the job is finished.",
            "content": {"text/event-stream": {}},
        },
        204: {"description": "The job is finished, and `Last-Event-ID` is its last event: do not come back."},
        **responses_for(
            errors.ResourceNotFound,
            errors.Gone,
            errors.InvalidRequest,
            errors.Unauthenticated,
            errors.Forbidden,
            errors.LedgerUnavailable,
        ),
    },
)
async def events(
    request: Request, who: Reader, job_id: UUID, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    """The job's past and future as events; `Last-Event-ID` goes on where a stream was cut off."""
    state = state_of(request)
    job = await find(state, who.tenant, job_id)
    seen = int(last_event_id) if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 12 else 0
    last = history.events(job, ())[-1].number
    if seen > last:
        seen = 0  # an id of another stream: it must not hide the end of this one
    if job.finished and seen == last:
        return Response(status_code=204, headers=NOT_KEPT)  # an EventSource comes back after any other end
    return StreamingResponse(_stream(state, job, seen), media_type="text/event-stream", headers=NOT_KEPT)


async def _stream(state: State, job: Job, seen: int) -> AsyncIterator[bytes]:
    current: Job | None = job
    told: bytes | None = None
    while current is not None:
        news = history.events(current, await state.changes.attempts(job.id), seen)
        frames = [_status(event) for event in news]
        progress = _progress(current)
        if progress is not None and progress != told and (news or not current.finished):
            told = progress
            frames.insert(len(frames) - current.finished, progress)
        for frame in frames:
            yield frame
        seen = news[-1].number if news else seen
        if current.finished or state.changes.closed:
            return
        try:
            current = await _next(state, current)
        except LedgerUnavailable:
            await asyncio.sleep(1)
        yield b": waiting\n\n"


async def _next(state: State, job: Job) -> Job | None:
    """The job once its state or progress has changed, or as it is after `KEEP_ALIVE`."""
    before = _seen_of(job)
    return await state.changes.wait(job.id, lambda now: _seen_of(now) != before, KEEP_ALIVE)


def _seen_of(job: Job) -> tuple[object, ...]:
    return job.status, job.attempt, job.progress


def _status(event: Event) -> bytes:
    data = json_text.encode({"status": event.status, "attempt": event.attempt, "at": event.at})
    return b"id: %d\nevent: status\ndata: %b\n\n" % (event.number, data)


def _progress(job: Job) -> bytes | None:
    """Without an id: whoever is cut off goes on after the last status, and is told the latest progress again."""
    if job.progress is None:
        return None
    data = json_text.encode({**msgspec.json.decode(job.progress, type=dict[str, Any]), "attempt": job.attempt})
    return b"event: progress\ndata: %b\n\n" % data
