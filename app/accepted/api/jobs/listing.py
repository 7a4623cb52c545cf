"""GET /jobs: a search for jobs that answers within a second, whatever there is (docs/decisions/0023)."""

from collections.abc import Iterable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from accepted.api.http.answers import header_docs
from accepted.api.http.auth import Reader, documented
from accepted.api.http.parameters import Listing, Page, in_chunks
from accepted.api.http.problems import REFUSALS, responses_for
from accepted.api.jobs.answers import ListedView
from accepted.api.state import state_of
from accepted.domain import cursor
from accepted.domain.failures import FailureClass
from accepted.domain.job import LARGE, QUEUE_PATTERN, Job, Status, to_wire
from accepted.services.jobs.requests import Metadata, Moment
from accepted.services.jobs.searching import JobSearch
from accepted.storage.db.engine import reading
from accepted.storage.jobs.searching import JobFilter

router = APIRouter(tags=["jobs"], dependencies=documented)

_PAIR = ("metadata[", "]")
"""What is around the key in the name of a query parameter `metadata[key]`."""


def _several(names: Iterable[str]) -> str:
    """The pattern of one or more of these names, with commas between them."""
    known = list(names)
    return f"^({'|'.join(known)})(,({'|'.join(known)})){{0,{len(known) - 1}}}$"


def _without_nul(text: str) -> str:
    """PostgreSQL's text cannot hold NUL, so the query would fail."""
    if "\0" in text:
        raise ValueError("must not hold NUL")
    return text


def _pairs_without_nul(pairs: dict[str, str]) -> dict[str, str]:
    return {key: _without_nul(value) for key, value in pairs.items()}


_Type = Annotated[str, Field(max_length=100), AfterValidator(_without_nul)]
_Tag = Annotated[str, Field(max_length=64), AfterValidator(_without_nul)]
_Statuses = Annotated[str, Field(pattern=_several(Status), description="one or several, with commas between them")]
_Pairs = Annotated[Metadata, AfterValidator(_pairs_without_nul), Field(description="`metadata[key]=value`")]


class JobQuery(Page):
    """The query of GET /jobs."""

    status: _Statuses | None = None
    queue: Annotated[str, Field(pattern=QUEUE_PATTERN)] | None = None
    type: _Type | None = None
    tag: _Tag | None = None
    batch_id: UUID | None = None
    parent_id: UUID | None = None
    root_id: Annotated[UUID, Field(description="the root itself is found, too")] | None = None
    error_class: FailureClass | None = None
    metadata: _Pairs | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    finished_after: Moment | None = None
    finished_before: Moment | None = None
    include: Annotated[str, Field(pattern=_several(LARGE), description="large fields to list too")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: dict[str, Any]) -> dict[str, Any]:
        """`metadata[key]` parameters as one field."""
        begin, end = _PAIR
        names = [name for name in given if name.startswith(begin) and name.endswith(end)]
        if not names:
            return given
        pairs = {name[len(begin) : -len(end)]: given[name] for name in names}
        return {"metadata": pairs, **{name: value for name, value in given.items() if name not in names}}

    @property
    def left_out(self) -> list[str]:
        """The large fields that are not asked for."""
        return [name for name in LARGE if name not in (self.include or "").split(",")]

    def filters(self) -> dict[str, Any]:
        """As they are sent."""
        found = super().filters()
        begin, end = _PAIR
        pairs = found.pop("metadata", {})
        return found | {f"{begin}{key}{end}": value for key, value in sorted(pairs.items())}

    def wanted(self) -> JobFilter:
        """Which jobs are asked for."""
        fields = self.model_dump(include=set(JobFilter.__struct_fields__))
        return JobFilter(statuses=self.status.split(",") if self.status else None, **fields)


class JobPage(BaseModel):
    """A page of jobs, newest first; `next` is the cursor of the next page.

    `complete` is false if the search took its time before it had looked at everything or filled the page: then there
    may be more, and `next` goes on from where it stopped, also if `items` is empty.
    """

    items: list[ListedView]
    next: str | None
    complete: bool


@router.get(
    "/jobs",
    response_model=JobPage,
    responses={200: {"description": "A page.", "headers": header_docs("Link")}, **responses_for(*REFUSALS)},
)
async def list_(request: Request, who: Reader, query: Annotated[JobQuery, Query()]) -> Response:
    """The tenant's jobs, newest first. Webhook deliveries are listed only by their own type or queue.

    They have `payload` and `result` only with `include=payload,result`. A page ends at 2 MiB, too: `next` goes on.
    """
    listing = Listing("/jobs", who.tenant, query)
    before = listing.begin(cursor.read)
    include = [name for name in LARGE if name not in query.left_out]
    async with reading(state_of(request).engine) as conn:
        search = JobSearch(conn, who.tenant, query.wanted(), include)
        found = await _page(search, before, query.limit) if include else await search.below(before, query.limit + 1)
    items = [to_wire(job, query.left_out) for job in found[: query.limit]]
    stopped_at = search.stopped_at
    return listing.answer(
        found, items, lambda job, scope: cursor.write(job.id, scope), {"complete": stopped_at is None}, stopped_at
    )


async def _page(search: JobSearch, before: UUID | None, limit: int) -> list[Job]:
    """A page with large fields."""
    return await in_chunks(search.below, before, limit, lambda job: job.id, _large_bytes)


def _large_bytes(job: Job) -> int:
    return len(job.payload) + len(job.result or "")
