"""GET /healthz, /readyz and /metrics, for load balancers and monitoring."""

import asyncio
import math
from typing import Literal

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.problems import responses_for
from accepted.api.state import State, state_of
from accepted.domain import json_text
from accepted.errors import BrokerUnavailable, LedgerUnavailable
from accepted.metrics import MESSAGES_REJECTED, keep_queues
from accepted.storage import queues
from accepted.storage.db.engine import reading
from accepted.storage.db.statements import Statement

_LEDGER_ANSWERS = Statement("SELECT 1 FROM jobs LIMIT 1")

router = APIRouter(tags=["health"])

DEADLINE = 3.0
"""Seconds that the ledger has to answer, and as many for the broker."""

_REPEATED = responses_for(errors.InvalidRequest)


class Alive(BaseModel):
    status: Literal["ok"]


class Readiness(BaseModel):
    status: Literal["ok", "unavailable"]
    ledger: str
    broker: str


@router.get("/healthz", response_model=Alive, responses=_REPEATED)
async def healthz() -> Response:
    """The process is alive."""
    return Response(b'{"status":"ok"}', media_type=JSON)


@router.get(
    "/readyz",
    response_model=Readiness,
    responses={503: {"description": "The ledger is away.", "model": Readiness}, **_REPEATED},
)
async def readyz(request: Request) -> Response:
    """Whether jobs can be accepted. A missing broker is reported, but jobs are accepted without it."""
    state = state_of(request)
    ledger, broker = await asyncio.gather(_ledger(state), _broker(state))
    ready = ledger == "ok"
    body = json_text.encode({"status": "ok" if ready else "unavailable", "ledger": ledger, "broker": broker})
    headers = {} if ready else {"Retry-After": "1"}
    return Response(body, 200 if ready else 503, headers, media_type=JSON)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_REPEATED})
async def metrics(request: Request) -> Response:
    """The counters of this process, in the Prometheus text format. Deleted queues have no series."""
    state = state_of(request)
    rejected, known = await asyncio.gather(_rejected(state), _queues(state))
    MESSAGES_REJECTED.set(rejected)
    if known is not None:
        keep_queues(known)
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _ledger(state: State) -> str:
    try:
        async with asyncio.timeout(DEADLINE), reading(state.engine) as conn:
            await _LEDGER_ANSWERS.run(conn)
    except (LedgerUnavailable, TimeoutError):
        return "unavailable"
    return "ok"


async def _rejected(state: State) -> float:
    try:
        async with asyncio.timeout(DEADLINE):
            return await state.broker.count_rejected()
    except (BrokerUnavailable, TimeoutError):
        return math.nan


async def _queues(state: State) -> set[str] | None:
    """The names of the queues; None: not known now."""
    try:
        async with asyncio.timeout(DEADLINE), reading(state.engine) as conn:
            return set(await queues.names(conn))
    except (LedgerUnavailable, TimeoutError):
        return None


async def _broker(state: State) -> str:
    try:
        async with asyncio.timeout(DEADLINE):
            return await state.broker.check()
    except TimeoutError:
        return "unavailable"
