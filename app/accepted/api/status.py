"""GET /status: what is wrong right now, in sentences."""

import asyncio
from datetime import datetime

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from accepted.api.http.answers import JSON
from accepted.api.http.auth import authenticate, documented, said
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import REFUSALS, responses_for
from accepted.api.state import state_of
from accepted.concurrency import done_within
from accepted.domain import json_text
from accepted.domain.monitoring.problems import Kind
from accepted.errors import LedgerUnavailable
from accepted.services.monitoring import status as service

router = APIRouter(tags=["monitoring"], dependencies=documented)

SCOPE = "jobs:read"

NOBODY = ""
"""A tenant that does not exist: while the ledger cannot say who asks, only what concerns everybody is told."""

KEY_WITHIN = 0.15
"""Seconds for looking up the caller's key. With those of the checks they are less than a second."""


class ProblemNow(BaseModel):
    """One thing that is wrong. Beside these fields it names what it is about."""

    kind: Kind
    sentence: str
    since: datetime = Field(description="When it began, as far as it is known; else when it was seen.")
    what_to_do: str
    link: str = Field(description="The path of the answer of this API that shows more.")
    queue: str | None = None
    type: str | None = None
    job_id: str | None = None
    host: str | None = None
    schedule: str | None = None
    worker: str | None = None
    loop: str | None = None
    checks: list[str] | None = Field(None, description="What could not be checked.")


class StatusView(BaseModel):
    ok: bool
    problems: list[ProblemNow]


@router.get(
    "/status", response_model=StatusView, dependencies=[said(SCOPE), Depends(only_query())],
    responses=responses_for(*REFUSALS),
)  # fmt: skip
async def status(request: Request) -> Response:
    """What is wrong right now, since when, and what to do about it. Answers within a second, whatever is away.

    Of queues, hosts, schedules and jobs those of the tenant are told, to `operator` those of all.
    """
    state = state_of(request)
    found = await service.problems_now(state.engine, state.broker, await _sees(request), state.settings.lease_ttl)
    return Response(json_text.encode({"ok": not found, "problems": found}), media_type=JSON)


async def _sees(request: Request) -> str | None:
    """The tenant whose problems are told; None: those of all."""
    asking = asyncio.create_task(authenticate(request, SCOPE))
    await done_within(KEY_WITHIN, asking)
    if not asking.done():
        return NOBODY
    try:
        return asking.result().sees
    except LedgerUnavailable:
        return NOBODY
