"""GET /jobs/{id}/events: what happens to a job, as Server-Sent Events, until it is finished."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app import errors
from app.api.auth import Reader, documented
from app.api.jobs import find
from app.api.problems import responses_for
from app.api.query import only_query
from app.api.state import State, state_of
from app.domain import json_text
from app.domain.job import Job
from app.domain.timeline import Event, timeline
from app.errors import LedgerUnavailable

router = APIRouter(tags=["jobs"], dependencies=[*documented, Depends(only_query())])

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, so that no proxy takes the stream for dead."""


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events `status`, until the job is finished.",
            "content": {"text/event-stream": {}},
        },
        **responses_for(
            errors.NotFound,
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
    return StreamingResponse(
        _stream(state, job, seen), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


async def _stream(state: State, job: Job, seen: int) -> AsyncIterator[bytes]:
    current: Job | None = job
    while current is not None:
        for event in timeline(current, await state.changes.attempts(job.id), seen):
            seen = event.number
            yield _frame(event)
        if current.finished or state.changes.closed:
            return
        try:
            current = await _next(state, current)
        except LedgerUnavailable:
            await asyncio.sleep(1)
        yield b": waiting\n\n"


async def _next(state: State, job: Job) -> Job | None:
    """The job once its state has changed, or as it is after `KEEP_ALIVE`."""
    before = (job.status, job.attempt)
    return await state.changes.wait(job.id, lambda now: (now.status, now.attempt) != before, KEEP_ALIVE)


def _frame(event: Event) -> bytes:
    data = json_text.encode({"status": event.status, "attempt": event.attempt, "at": event.at})
    return b"id: %d\nevent: status\ndata: %b\n\n" % (event.number, data)
