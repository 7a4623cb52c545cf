"""GET /healthz, /readyz and /metrics, for load balancers and monitoring."""

import asyncio
from typing import Literal

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.problems import responses_for
from accepted.api.state import State, state_of
from accepted.broker.base import checked
from accepted.domain import json_text
from accepted.errors import LedgerUnavailable
from accepted.metrics import registry
from accepted.services import scraping
from accepted.services.scraping import DEADLINE
from accepted.storage.db import migrate

router = APIRouter(tags=["health"])
figures = APIRouter(tags=["health"])
"""Not part of an application whose figures have a port of their own."""

_REPEATED = responses_for(errors.InvalidRequest)


class Alive(BaseModel):
    status: Literal["ok"]


class Readiness(BaseModel):
    status: Literal["ok", "unavailable"]
    ledger: Literal["ok", "ahead", "unavailable"]
    broker: Literal["ok", "unavailable"]
    problems: list[str] = Field(default=[], description="What is wrong, where, and what to do; absent if nothing is.")


@router.get("/healthz", response_model=Alive, responses=_REPEATED)
async def healthz() -> Response:
    """The process is alive."""
    return Response(b'{"status":"ok"}', media_type=JSON)


@router.get(
    "/readyz",
    response_model=Readiness,
    responses={
        503: {"description": "The ledger is away, refuses us, or lacks our schema.", "model": Readiness},
        **_REPEATED,
    },
)
async def readyz(request: Request) -> Response:
    """Whether jobs can be accepted. A missing broker is reported, but jobs are accepted without it.

    The ledger is `unavailable` too if it has no schema or an older one than this version needs: `accepted migrate`
    helps. A newer schema is `ahead`, and jobs are accepted.
    """
    state = state_of(request)
    (ledger, about_ledger), (broker, about_broker) = await asyncio.gather(_ledger(state), _broker(state))
    ready = ledger != "unavailable"
    found: dict[str, object] = {"status": "ok" if ready else "unavailable", "ledger": ledger, "broker": broker}
    if problems := [about for about in (about_ledger, about_broker) if about is not None]:
        found["problems"] = problems
    headers = {} if ready else {"Retry-After": "1"}
    return Response(json_text.encode(found), 200 if ready else 503, headers, media_type=JSON)


@figures.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_REPEATED})
async def metrics(request: Request) -> Response:
    """The counters of this process, or of all `api --workers` together, in the Prometheus text format."""
    state = state_of(request)
    await scraping.refresh_all(state.engine, state.broker, state.settings.lease_ttl)
    return Response(generate_latest(registry()), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _ledger(state: State) -> tuple[str, str | None]:
    try:
        async with asyncio.timeout(DEADLINE):
            ahead = await migrate.check(state.engine)
    except (LedgerUnavailable, TimeoutError) as error:
        return "unavailable", str(error) or f"the ledger did not answer within {DEADLINE:g} s"
    return ("ok", None) if ahead is None else ("ahead", ahead)


async def _broker(state: State) -> tuple[str, str | None]:
    said = await checked(state.broker, DEADLINE)
    return ("ok", None) if said == "ok" else ("unavailable", said)
