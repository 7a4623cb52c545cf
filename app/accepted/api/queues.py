"""GET /queues, GET, PATCH and DELETE /queues/{name}, and GET /queues/{name}/sizing.

Every caller sees names, limits, rates and slots. How many jobs wait, and for how long, covers all jobs for `operator`,
and the tenant's own jobs for other callers.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.auth import QueueAdmin, Reader, documented
from accepted.api.http.body import body_docs, read_json
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import BODY_REFUSALS, REFUSALS, responses_for
from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.job import QUEUE_PATTERN
from accepted.domain.monitoring.audit import Action
from accepted.domain.rates import DRAIN_WITHIN
from accepted.domain.tenants import OPERATOR_SCOPE
from accepted.errors import Conflict, Forbidden, PreconditionFailed, ResourceNotFound, did_you_mean
from accepted.services import queues as service
from accepted.services.jobs.requests import Number
from accepted.services.jobs.validation import checked
from accepted.services.keys import Principal
from accepted.services.monitoring import audit
from accepted.storage import queues
from accepted.storage.db.engine import reading, transaction
from accepted.storage.queues import QueueSettings, QueueUses

router = APIRouter(tags=["queues"], dependencies=documented)

LARGEST_LIMIT = 1_000_000
"""Jobs in the largest limit. One PostgreSQL cannot reach it."""

SHORTEST_WINDOW, LONGEST_WINDOW = 0.001, 86400.0
"""Seconds of a rate's window, or in which a backlog is to be worked off."""

MAX_BODY = 4096
"""Bytes: a handful of numbers."""

UNKNOWN = "no job has named this queue, and no limit is set for it"

Name = Annotated[str, Path(pattern=QUEUE_PATTERN)]
"""A name that does not match answers 404."""

Limit = Annotated[StrictInt, Field(ge=1, le=LARGEST_LIMIT)]


class RateRequest(BaseModel):
    """Up to `jobs` start in `per` seconds, evenly."""

    model_config = ConfigDict(extra="forbid", title="RateLimit")

    jobs: Limit
    per: Annotated[Number, Field(ge=SHORTEST_WINDOW, le=LONGEST_WINDOW, description="seconds")]


class QueuePatch(BaseModel):
    """The settings to change; null removes a limit."""

    model_config = ConfigDict(extra="forbid", title="QueuePatch")

    paused: StrictBool | None = None
    max_running: Limit | None = None
    rate_limit: RateRequest | None = None
    max_running_per_key: Limit | None = None
    max_depth: Limit | None = Field(None, description="Jobs of each tenant that may wait.")

    def columns(self) -> dict[str, Any]:
        """The columns of `queues` that the body names, with their new values."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        if "rate_limit" in given:
            rate = given.pop("rate_limit")
            given |= {"rate_jobs": rate and rate.jobs, "rate_per": rate and float(rate.per)}
        if "paused" in given:
            given["paused"] = bool(given["paused"])
        return given


class RateView(BaseModel):
    jobs: int
    per: float


class DepthView(BaseModel):
    """Unfinished jobs, by status."""

    scheduled: int
    blocked: int
    queued: int
    running: int
    retrying: int


class QueueView(BaseModel):
    """A queue: its limits (null: no limit), its jobs, and what was measured (null: nothing yet)."""

    name: str
    paused: bool
    max_running: int | None
    rate_limit: RateView | None
    max_running_per_key: int | None
    max_depth: int | None
    depth: DepthView
    depth_of: Literal["all", "tenant"] = Field(description="Whose jobs `depth` and `oldest_waiting_age` cover.")
    depth_at: datetime | None = Field(
        description="When the waiting jobs of `depth` were counted, if they are too many to be counted for an answer."
    )
    oldest_waiting_age: float | None = Field(description="Seconds for which the oldest queued job has been ready.")
    rate_in: float | None = Field(description="Jobs that came due, per second.")
    rate_out: float | None = Field(description="Attempts that ended, per second.")
    mean_run_time: float | None = Field(description="Seconds per attempt.")
    measured_over: float | None = Field(description="Seconds that the rates cover.")
    slots: int = Field(
        description="Of live workers that serve the queue and one of its types; they may serve other queues, too."
    )


class QueueList(BaseModel):
    items: list[QueueView]


class SizingQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    drain_within: Annotated[
        float, Field(ge=SHORTEST_WINDOW, le=LONGEST_WINDOW, allow_inf_nan=False, description="seconds")
    ] = DRAIN_WITHIN


class SizingView(BaseModel):
    """How many slots a queue needs, by Little's law; null where that is not known yet."""

    queue: str
    arrival_rate: float | None
    mean_run_time: float | None
    measured_over: float | None
    backlog: int
    drain_within: float
    slots: int = Field(description="Slots of live workers now.")
    slots_at_least: int | None = Field(description="To keep up with the arrivals.")
    slots_advised: int | None = Field(description="With headroom, and to clear the backlog in `drain_within`.")
    detail: str


@router.get(
    "/queues", response_model=QueueList, dependencies=[Depends(only_query())], responses=responses_for(*REFUSALS)
)
async def list_(request: Request, who: Reader) -> Response:
    """Every queue, by name."""
    state = state_of(request)
    found = await service.describe_all(state.engine, who.sees, state.settings.lease_ttl)
    return Response(json_text.encode({"items": found}), media_type=JSON)


@router.get(
    "/queues/{name}",
    response_model=QueueView,
    dependencies=[Depends(only_query())],
    responses=responses_for(errors.ResourceNotFound, *REFUSALS),
)
async def get(request: Request, who: Reader, name: Name) -> Response:
    """A queue: its limits, its jobs, and what was measured."""
    return await _shown(request, who, name)


@router.get(
    "/queues/{name}/sizing", response_model=SizingView, responses=responses_for(errors.ResourceNotFound, *REFUSALS)
)
async def sizing(request: Request, who: Reader, name: Name, query: Annotated[SizingQuery, Query()]) -> Response:
    """How many slots the queue needs: the number for an autoscaler."""
    state = state_of(request)
    found = await service.sizing(state.engine, name, query.drain_within, state.settings.lease_ttl)
    if found is None:
        raise ResourceNotFound(UNKNOWN)
    return Response(json_text.encode(found), media_type=JSON)


@router.patch(
    "/queues/{name}",
    response_model=QueueView,
    dependencies=[Depends(only_query())],
    responses=responses_for(errors.ResourceNotFound, *BODY_REFUSALS, errors.PreconditionFailed),
    openapi_extra=body_docs(QueuePatch),
)
async def patch(
    request: Request,
    who: QueueAdmin,
    name: Name,
    if_match: Annotated[str | None, Header(description="`*`: only if the queue exists.")] = None,
) -> Response:
    """Set the limits that the body names; null removes one, and limits that are left out do not change.

    Makes a queue that does not exist, unless If-Match is given.
    403 for a queue that is another tenant's, or everybody's.
    """
    wanted = checked(QueuePatch, await read_json(request, MAX_BODY))
    async with transaction(state_of(request).engine) as conn:
        if if_match is not None:
            await _check_match(conn, name, if_match)
        before = await queues.locked(conn, name)
        after = await queues.change(conn, name, wanted.columns() | await _owner(conn, name, who))
        await _record_change(conn, who, before, after, wanted.model_fields_set)
        await conn.commit()
    state_of(request).limits.forget()
    return await _shown(request, who, name)


@router.delete(
    "/queues/{name}",
    status_code=204,
    dependencies=[Depends(only_query())],
    responses=responses_for(errors.ResourceNotFound, errors.Conflict, *REFUSALS),
)
async def delete(request: Request, who: QueueAdmin, name: Name) -> Response:
    """Delete a queue without unfinished jobs, and its limits. Its finished jobs stay; a new job makes it again.

    409 while jobs wait or run on it, while a shared type or one of the tenant's own has it as its queue, and while a
    live worker names it.
    """
    state = state_of(request)
    async with reading(state.engine) as conn:
        await _owner(conn, name, who)
    uses = await service.delete(state.engine, state.broker, name, who.tenant, state.settings.lease_ttl)
    if uses is None:
        raise ResourceNotFound(UNKNOWN)
    if not uses.none:
        raise Conflict(f"the queue is in use: {_in_words(uses)}")
    state.submissions.forget_queues()
    state.limits.forget()
    return Response(status_code=204)


async def _owner(conn: AsyncConnection, name: str, who: Principal) -> dict[str, str]:
    """The column of `queues` that makes the queue the caller's; empty for an operator, who changes any queue.

    Raises `Forbidden` if it is another tenant's, or everybody's.
    """
    if OPERATOR_SCOPE in who.scopes:
        return {}
    if not await queues.may_own(conn, name, who.tenant):
        raise Forbidden(f"other tenants use this queue: this needs the scope {OPERATOR_SCOPE}")
    return {"owner": who.tenant}


async def _record_change(
    conn: AsyncConnection, who: Principal, before: QueueSettings | None, after: QueueSettings, names: set[str]
) -> None:
    """Record the settings that the body names, as they were (null: the queue is new) and as they are."""

    def of(settings: QueueSettings) -> dict[str, Any]:
        return {name: getattr(settings, name) for name in sorted(names)}

    was = None if before is None else of(before)
    await audit.record(conn, Action.QUEUE_CHANGED, who.tenant, after.name, before=was, after=of(after))


async def _check_match(conn: AsyncConnection, name: str, if_match: str) -> None:
    """Raise `PreconditionFailed` unless the queue exists and `if_match` is `*`: a queue has no entity tag."""
    if if_match.strip() != "*":
        raise PreconditionFailed("a queue has no entity tag: If-Match can only be *")
    if await queues.settings_of(conn, name) is None:
        raise PreconditionFailed(UNKNOWN + did_you_mean(name, await queues.names(conn)))


def _in_words(uses: QueueUses) -> str:
    found = ["jobs wait on it"] * uses.waiting + ["jobs run on it"] * uses.running
    if uses.types:
        found.append(f"it is the queue of the types {', '.join(uses.types)}")
    if uses.workers:
        found.append(f"it is served by name by {', '.join(uses.workers)}")
    return "; ".join(found)


async def _shown(request: Request, who: Principal, name: str) -> Response:
    state = state_of(request)
    found = await service.describe(state.engine, name, who.sees, state.settings.lease_ttl)
    if found is None:
        raise ResourceNotFound(UNKNOWN)
    return Response(json_text.encode(found), media_type=JSON)
