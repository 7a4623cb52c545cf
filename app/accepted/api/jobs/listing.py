"""GET /jobs: a search for jobs that answers within a second, whatever there is (docs/decisions/0023)."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from accepted.api.http.answers import header_docs
from accepted.api.http.auth import Reader, documented
from accepted.api.http.parameters import Listing, Page, Position, Row, in_chunks
from accepted.api.http.problems import REFUSALS, responses_for
from accepted.api.jobs.answers import ListedView
from accepted.api.jobs.filters import JobFilters, several
from accepted.api.state import State, state_of
from accepted.domain import cursor
from accepted.domain.job import LARGE, Job, to_wire
from accepted.errors import FieldError, InvalidRequest
from accepted.services.jobs.searching import JobSearch, UpcomingSearch
from accepted.storage.db.engine import reading
from accepted.storage.jobs import upcoming
from accepted.storage.jobs.job_filter import JobFilter
from accepted.storage.jobs.upcoming import Due

router = APIRouter(tags=["jobs"], dependencies=documented)

_PAIR = ("metadata[", "]")
"""What is around the key in the name of a query parameter `metadata[key]`."""


class JobQuery(Page, JobFilters):
    """The query of GET /jobs."""

    sort: (
        Annotated[Literal["run_at"], Field(description="the soonest first; of jobs that wait for a moment")] | None
    ) = None
    include: Annotated[str, Field(pattern=several(LARGE), description="large fields to list too")] | None = None

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
    def included(self) -> list[str]:
        """The large fields that are asked for."""
        return [name for name in LARGE if name not in self.left_out]

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

    @property
    def soonest_first(self) -> bool:
        """Whether it is sorted by `run_at`. Raises `InvalidRequest` for a status that waits for no moment."""
        if self.sort is None:
            return False
        if not set(self.statuses or ()) <= set(upcoming.STATUSES):
            raise InvalidRequest([FieldError("/sort", f"needs status={','.join(upcoming.STATUSES)}, or one of these")])
        return True


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

    With `sort=run_at`, those that wait for a moment, the soonest first. They have `payload` and `result` only with
    `include=payload,result`. A page ends at 2 MiB, too: `next` goes on.
    """
    listing = Listing("/jobs", who.tenant, query)
    state = state_of(request)
    wanted = query.wanted(state.settings.metadata_keys)
    if query.soonest_first:
        return await _soonest_first(state, who.tenant, query, wanted, listing)
    before = listing.begin(cursor.read)
    async with reading(state.engine) as conn:
        search = JobSearch(conn, who.tenant, wanted, query.included)
        found = await _page(search.below, before, query, lambda job: job.id, lambda job: job)
    stopped = None if search.stopped_at is None else partial(cursor.write, search.stopped_at)
    return _answer(listing, query, found, found, lambda job, scope: cursor.write(job.id, scope), stopped)


async def _soonest_first(state: State, tenant: str, query: JobQuery, wanted: JobFilter, listing: Listing) -> Response:
    after = listing.begin(cursor.read_moment)
    begin = None if after is None else Due(*after)
    async with reading(state.engine) as conn:
        search = UpcomingSearch(conn, tenant, wanted, query.included)
        found = await _page(search.behind, begin, query, itemgetter(0), itemgetter(1))
    jobs = [job for _, job in found]
    stopped = None if search.stopped_at is None else partial(cursor.write_moment, *search.stopped_at)
    return _answer(listing, query, found, jobs, lambda one, scope: cursor.write_moment(*one[0], scope), stopped)


def _answer(
    listing: Listing,
    query: JobQuery,
    found: Sequence[Row],
    jobs: Sequence[Job],
    write: Callable[[Row, str], str],
    stopped_at: Callable[[str], str] | None,
) -> Response:
    items = [to_wire(job, query.left_out) for job in jobs[: query.limit]]
    return listing.answer(found, items, write, {"complete": stopped_at is None}, stopped_at)


async def _page(
    read: Callable[[Position | None, int], Awaitable[Sequence[Row]]],
    begin: Position | None,
    query: JobQuery,
    position: Callable[[Row], Position],
    job: Callable[[Row], Job],
) -> Sequence[Row]:
    """A page, read in chunks if its jobs have large fields."""
    if not query.included:
        return await read(begin, query.limit + 1)
    return await in_chunks(read, begin, query.limit, position, lambda row: _large_bytes(job(row)))


def _large_bytes(job: Job) -> int:
    return len(job.payload) + len(job.result or "")
