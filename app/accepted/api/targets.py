"""GET /targets: the hosts that fail, or that asked not to be called for a time; POST /targets/{host}/release."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.auth import Admin, Reader, documented
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import REFUSALS, responses_for
from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.failures import FailureClass
from accepted.errors import ResourceNotFound
from accepted.services import targets as service
from accepted.storage import targets
from accepted.storage.db.engine import reading
from accepted.storage.targets import TargetHealth

router = APIRouter(tags=["targets"], dependencies=[*documented, Depends(only_query())])

Host = Annotated[str, Path(pattern=r"^[0-9A-Za-z._:\[\]-]{1,300}$", description="With its port: example.com:443")]

LIMIT = 1000
"""Hosts in a list; those deferred longest come first."""

UNKNOWN = "no failure of this host is recorded: it is called as usual"


class TargetView(BaseModel):
    """A host whose last call failed (`closed`: it is still called), that is deferred (`open`), or that the next job for
    it tries (`half_open`)."""

    host: str
    state: Literal["closed", "open", "half_open"]
    failures: int = Field(description="In a row.")
    reason: FailureClass
    deferred_until: datetime | None
    updated_at: datetime


class TargetList(BaseModel):
    items: list[TargetView]


class ReleasedView(BaseModel):
    """`released` is the number of jobs that waited for the host."""

    host: str
    released: int


@router.get("/targets", response_model=TargetList, responses=responses_for(*REFUSALS))
async def list_(request: Request, who: Reader) -> Response:
    """The hosts whose last call failed, or that are deferred; up to 1000. Hosts that answer are left out."""
    async with reading(state_of(request).engine) as conn:
        found = await targets.of_tenant(conn, who.tenant, LIMIT)
    return Response(json_text.encode({"items": [_shown(one) for one in found]}), media_type=JSON)


@router.get("/targets/{host}", response_model=TargetView, responses=responses_for(errors.ResourceNotFound, *REFUSALS))
async def get(request: Request, who: Reader, host: Host) -> Response:
    """The recorded failures of a host; 404 if there are none."""
    async with reading(state_of(request).engine) as conn:
        found = await targets.of_tenant(conn, who.tenant, 1, host.lower())
    if not found:
        raise ResourceNotFound(UNKNOWN)
    return Response(json_text.encode(_shown(found[0])), media_type=JSON)


@router.post(
    "/targets/{host}/release", response_model=ReleasedView, responses=responses_for(errors.ResourceNotFound, *REFUSALS)
)
async def release(request: Request, who: Admin, host: Host) -> Response:
    """Call the host as usual again, and release the jobs that wait for it. New failures defer it again."""
    engine, host = state_of(request).engine, host.lower()
    if not await service.release(engine, who.tenant, host):
        raise ResourceNotFound(UNKNOWN)
    released = await service.wake(engine, who.tenant, host)
    again = BackgroundTask(service.wake_stragglers, engine, who.tenant, host)
    return Response(json_text.encode({"host": host, "released": released}), media_type=JSON, background=again)


def _shown(target: TargetHealth) -> dict[str, object]:
    return {
        "host": target.host,
        "state": target.state,
        "failures": target.failures,
        "reason": target.reason,
        "deferred_until": target.deferred_until,
        "updated_at": target.updated_at,
    }
