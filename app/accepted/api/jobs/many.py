"""Orders about many jobs, which the filters of GET /jobs select: POST /jobs/cancel, /jobs/retry and /jobs/delete."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, BeforeValidator, Field, StrictBool
from starlette.requests import Request
from starlette.responses import Response

from accepted.api.http.answers import JSON
from accepted.api.http.auth import Writer, documented
from accepted.api.http.body import NoNulls, body_docs, read_json
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import BODY_REFUSALS, responses_for
from accepted.api.jobs.filters import JobFilters, Statuses
from accepted.api.state import State, state_of
from accepted.domain import cursor, json_text
from accepted.domain.job import RETRYABLE, Status
from accepted.errors import FieldError, InvalidRequest
from accepted.services.jobs import many
from accepted.services.jobs.many import CANCELLABLE, DELETABLE, Selection, Tally
from accepted.services.jobs.validation import checked

router = APIRouter(tags=["jobs"], dependencies=[*documented, Depends(only_query())])

MAX_BODY = 64 * 1024
"""Bytes: every filter, with 50 pairs of metadata."""


def _joined(value: object) -> object:
    """Read `["queued", "running"]` as `"queued,running"`."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    return value


_Listed = Annotated[list[Status], Field(min_length=1, max_length=len(Status))]


class JobSelection(NoNulls, JobFilters):
    """Selects the jobs that match all given filters, or all jobs; as GET /jobs, no webhook deliveries unless named."""

    status: Annotated[Statuses, BeforeValidator(_joined, json_schema_input_type=Statuses | _Listed)] | None = None
    all: StrictBool = Field(False, description="instead of filters: every job")
    dry_run: StrictBool = Field(False, description="count only")
    cursor: Annotated[str, Field(max_length=100, description="`next` of an incomplete answer, to go on")] | None = None

    def scope(self, path: str, tenant: str) -> str:
        """What a cursor is valid for. Raises `InvalidRequest` unless the jobs are selected."""
        filters = self.model_dump_json(exclude={"all", "dry_run", "cursor"}, exclude_none=True)
        if self.all == (filters != "{}"):
            wrong = "cannot stand beside filters" if self.all else "select jobs by filters, or all by true"
            raise InvalidRequest([FieldError("/all", wrong)])
        return f"{path} {tenant} {filters}"


class _Counted(BaseModel):
    """`complete` and `next` are there only if the time of the request did not suffice: send it again, with `cursor`."""

    matched: int
    complete: Annotated[bool, Field(description="present only if false")] = False
    next: Annotated[str, Field(description="the `cursor` to go on with")] = ""


class CancelledView(_Counted):
    cancelled: int


class RetriedView(_Counted):
    retried: int


class DeletedView(_Counted):
    deleted: int


def _docs(model: type[BaseModel]) -> dict[str, Any]:
    return {
        "response_model": model,
        "responses": responses_for(*BODY_REFUSALS),
        "openapi_extra": body_docs(JobSelection),
    }


@router.post("/jobs/cancel", **_docs(CancelledView))
async def cancel(request: Request, who: Writer) -> Response:
    """Cancel all matching jobs that have not finished: waiting ones at once, running ones as their workers are told."""
    state = state_of(request)
    act = partial(many.cancel, state.engine, state.broker)
    return await _act(request, "/jobs/cancel", who.tenant, CANCELLABLE, act, "cancelled")


@router.post("/jobs/retry", **_docs(RetriedView))
async def retry(request: Request, who: Writer) -> Response:
    """Run all matching jobs that failed, expired or were cancelled again, each with a fresh retry budget."""
    act = partial(many.retry, state_of(request).engine)
    return await _act(request, "/jobs/retry", who.tenant, RETRYABLE, act, "retried")


@router.post("/jobs/delete", **_docs(DeletedView))
async def delete(request: Request, who: Writer) -> Response:
    """Delete what all matching jobs hold, as DELETE /jobs/{id} does. Running jobs do not match."""
    state = state_of(request)
    act = partial(many.delete, state.engine, state.broker)
    return await _act(request, "/jobs/delete", who.tenant, DELETABLE, act, "deleted")


async def _act(
    request: Request,
    path: str,
    tenant: str,
    allowed: frozenset[Status],
    act: Callable[[Selection], Awaitable[Tally]],
    done: str,
) -> Response:
    """Do `act` to the jobs that are asked for, or only count them. `done` names in the answer what was done."""
    state = state_of(request)
    asked = checked(JobSelection, await read_json(request, MAX_BODY))
    selection, scope = _selected(state, path, tenant, asked, allowed)
    tally = await (many.count(state.engine, selection) if asked.dry_run else act(selection))
    return _answer(done, tally, scope)


def _selected(
    state: State, path: str, tenant: str, asked: JobSelection, allowed: frozenset[Status]
) -> tuple[Selection, str]:
    """The jobs that are asked for, and the scope of the cursor. Raises `InvalidRequest`."""
    scope = asked.scope(path, tenant)
    try:
        before = None if asked.cursor is None else cursor.read(asked.cursor, scope)
    except ValueError:
        raise InvalidRequest([FieldError("/cursor", "is not a cursor of this request")]) from None
    return Selection(tenant, asked.wanted(state.settings.metadata_keys), allowed, before), scope


def _answer(done: str, tally: Tally, scope: str) -> Response:
    body: dict[str, object] = {"matched": tally.matched, done: tally.done}
    if tally.stopped_at is not None:
        body |= {"complete": False, "next": cursor.write(tally.stopped_at, scope)}
    return Response(json_text.encode(body), media_type=JSON)
