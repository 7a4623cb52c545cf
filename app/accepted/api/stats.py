"""GET /stats: series for charts, of the last 14 days. `operator` sees all jobs, other callers those of their tenant."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from accepted.api.http.answers import JSON
from accepted.api.http.auth import Reader, documented
from accepted.api.http.parameters import Whole, without_nul
from accepted.api.http.problems import REFUSALS, responses_for
from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.job import QUEUE_PATTERN
from accepted.services.jobs.requests import Moment
from accepted.services.monitoring import statistics
from accepted.services.monitoring.statistics import MOST_POINTS
from accepted.storage.monitoring.statistics import KEPT, MINUTE

router = APIRouter(tags=["monitoring"], dependencies=documented)


class StatsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    queue: Annotated[str, Field(pattern=QUEUE_PATTERN)] | None = None
    type: Annotated[str, Field(max_length=100), AfterValidator(without_nul)] | None = None
    since: Annotated[Moment, Field(description="an hour ago, if it is left out; 14 days at most")] | None = None
    step: (
        Annotated[Whole, Field(ge=MINUTE, le=KEPT, description=f"seconds; at most {MOST_POINTS} points are answered")]
        | None
    ) = None


class StatsPoint(BaseModel):
    """What happened in one step. A time that nobody has measured is null."""

    at: datetime = Field(description="The beginning of the step.")
    accepted: int = Field(description="Jobs.")
    started: int = Field(description="Attempts.")
    succeeded: int = Field(description="Attempts.")
    failed: dict[str, int] = Field(description="Attempts by failure class, also those that are tried again.")
    wait_p50: float | None = Field(description="Seconds from when a job came due until an attempt started.")
    wait_p99: float | None
    run_p50: float | None = Field(description="Seconds that an attempt took.")
    run_p99: float | None
    depth: int | None = Field(description="The most jobs that were due and waited at a time; null with `type`.")
    oldest: float | None = Field(description="The longest that one of them had been ready, in seconds.")


class StatsView(BaseModel):
    step: int = Field(
        description="Seconds: the step that was asked for, in whole minutes, or tens of minutes from a day ago on."
    )
    series: list[StatsPoint]


@router.get("/stats", response_model=StatsView, responses=responses_for(*REFUSALS))
async def stats(request: Request, who: Reader, query: Annotated[StatsQuery, Query()]) -> Response:
    """What was accepted, started and ended, how long jobs waited and ran, and how many waited, step by step."""
    found = await statistics.charted(
        state_of(request).engine, who.sees, query.queue, query.type, query.since, query.step
    )
    return Response(json_text.encode(found), media_type=JSON)
