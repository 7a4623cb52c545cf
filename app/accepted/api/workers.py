"""GET /workers: the live processes, what each runs and how its loops fare; POST /workers/{id}/drain ends one.

Every caller sees the processes, because all tenants share them. Which jobs a worker runs covers all jobs for
`operator`, and the tenant's own jobs for other callers; HTTP workers are shown to their tenant and to `operator`.
"""

from datetime import datetime
from typing import Literal
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.auth import Drainer, Reader, documented
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import REFUSALS, responses_for
from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.tenants import OPERATOR_SCOPE
from accepted.errors import Forbidden
from accepted.services.keys import Principal
from accepted.services.monitoring import processes as service
from accepted.storage import tenants
from accepted.storage.db.engine import reading

router = APIRouter(tags=["workers"], dependencies=[*documented, Depends(only_query())])


class RunningView(BaseModel):
    """A job that a worker runs. `ending`: it was cancelled, and its attempt has not ended yet."""

    id: UUID
    type: str
    queue: str
    attempt: int
    started_at: datetime
    ending: bool


class SlotsView(BaseModel):
    slots: int
    busy: int


class LoopView(BaseModel):
    """A loop of a scheduler, since its process started."""

    name: str
    last_run_at: datetime | None
    last_success_at: datetime | None
    failing_since: datetime | None
    seconds: float | None = Field(description="What the last round took.")
    failures: int


class ProcessView(BaseModel):
    """A process of the service, or an HTTP worker: the last has no `host`, `pid` and `version`."""

    id: UUID = Field(description="Of a worker: `worker` in the attempts on jobs that it runs.")
    kind: Literal["worker", "scheduler", "api"]
    name: str
    host: str | None
    pid: int | None
    over_http: bool
    version: str | None
    started_at: datetime
    heartbeat_at: datetime
    draining: bool
    queues: list[str] = Field(description="The queues that a worker serves now.")
    types: list[str]
    slots: int
    busy: int = Field(description="Slots in use, by jobs of any tenant.")
    deliveries: SlotsView | None = Field(description="The slots that a worker has for webhooks beside the others.")
    running: list[RunningView] = Field(description="The oldest 20 of the jobs that you may see.")
    more_running: int = Field(description="How many further jobs it runs that you may see.")
    outcomes: dict[str, int] = Field(description="How attempts ended in the last five minutes.")
    loops: list[LoopView]


class ProcessList(BaseModel):
    items: list[ProcessView]


@router.get("/workers", response_model=ProcessList, responses=responses_for(*REFUSALS))
async def list_(request: Request, who: Reader) -> Response:
    """Every live process: workers, schedulers and API processes."""
    state = state_of(request)
    found = await service.live(state.engine, who.sees, state.settings.lease_ttl)
    return Response(json_text.encode({"items": found}), media_type=JSON)


@router.post(
    "/workers/{process_id}/drain",
    status_code=202,
    response_model=ProcessView,
    responses=responses_for(errors.ResourceNotFound, errors.Conflict, *REFUSALS),
)
async def drain(request: Request, who: Drainer, process_id: UUID) -> Response:
    """The process takes no more, finishes what it holds, and exits with code 0. May be repeated.

    A worker finishes its running jobs however long they take. An API process accepts no more connections, and answers
    within ACCEPTED_SHUTDOWN_GRACE what it has received. 409 for a process that something else would start again
    (`accepted dev`, `accepted api --workers N`), and for an HTTP worker. 403 for a key without `operator`, once another
    tenant has a key.
    """
    state = state_of(request)
    await _check_drainer(request, who)
    found = await service.drain(state.engine, process_id, who.sees, state.settings.lease_ttl)
    return Response(json_text.encode(found), 202, media_type=JSON)


async def _check_drainer(request: Request, who: Principal) -> None:
    """Raise `Forbidden` if the process works for other tenants than the caller's, and the caller is no operator."""
    if OPERATOR_SCOPE in who.scopes:
        return
    async with reading(state_of(request).engine) as conn:
        if await tenants.others_have_keys(conn, who.tenant):
            raise Forbidden(f"other tenants use this process: this needs the scope {OPERATOR_SCOPE}")
