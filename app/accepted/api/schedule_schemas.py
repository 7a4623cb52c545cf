"""What may be asked of schedules, and the shapes of the answers."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from accepted.domain.cron import LONGEST
from accepted.domain.job import Status
from accepted.domain.schedule import OnMissed, Outcome, Overlap
from accepted.services.jobs.requests import YEAR, JobRequest, Moment, Number

SHOWN = 5
"""Next runs in an answer."""

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Times that a preview begins at. What the clocks will do in a century nobody knows."""


def _not_asked(value: object) -> None:
    if value is not None:
        raise ValueError("a schedule decides itself when its jobs run")


def _foreseeable(value: datetime) -> datetime:
    if not EARLIEST <= value <= LATEST:
        raise ValueError(f"must lie between {EARLIEST.year} and {LATEST.year}")
    return value


OfTheSchedule = Annotated[None, BeforeValidator(_not_asked, json_schema_input_type=None)]
Cron = Annotated[StrictStr, Field(max_length=LONGEST, description="minute, hour, day of month, month, day of week")]
Timezone = Annotated[StrictStr, Field(max_length=64, description="UTC, or a name of the IANA database")]


class ScheduledJob(JobRequest):
    """A body of POST /jobs without the times."""

    model_config = ConfigDict(extra="forbid", title="ScheduledJob")

    run_at: OfTheSchedule = None
    delay: OfTheSchedule = None


class ScheduleRequest(BaseModel):
    """The body of PUT /schedules/{name}."""

    model_config = ConfigDict(extra="forbid")

    cron: Cron
    timezone: Timezone = "UTC"
    job: ScheduledJob
    on_missed: Literal["skip", "run_once", "run_all"] = "skip"
    overlap: Literal["allow", "skip"] = "allow"
    spread_over: Annotated[Number, Field(ge=0, le=YEAR, description="seconds in which each run begins")] = 0.0
    enabled: StrictBool = True


class PreviewRequest(BaseModel):
    """The body of POST /schedules/preview."""

    model_config = ConfigDict(extra="forbid")

    cron: Cron
    timezone: Timezone = "UTC"
    after: Annotated[Moment, AfterValidator(_foreseeable)] | None = None
    count: Annotated[StrictInt, Field(ge=1, le=100)] = SHOWN


class ScheduleLinks(BaseModel):
    self: str
    runs: str
    trigger: str


class ScheduleView(BaseModel):
    """A schedule; `job` as it was given. `next_runs` is empty while it rests."""

    name: str
    cron: str
    timezone: str
    job: dict[str, Any]
    on_missed: OnMissed
    overlap: Overlap
    spread_over: float
    enabled: bool
    next_runs: list[datetime]
    created_at: datetime
    updated_at: datetime
    links: ScheduleLinks


class SchedulePage(BaseModel):
    """A page of schedules, by name; `next` is the cursor of the next one."""

    items: list[ScheduleView]
    next: str | None


class RunView(BaseModel):
    """What became of one time of a schedule; `job_status` is null where there is no job, or none any more."""

    scheduled_at: datetime
    fired_at: datetime
    outcome: Outcome
    reason: str | None
    job_id: UUID | None
    job_status: Status | None


class RunPage(BaseModel):
    """A page of runs, newest first; `next` is the cursor of the next one."""

    items: list[RunView]
    next: str | None


class PreviewView(BaseModel):
    """When a line fires, and what changes of the clock do to it."""

    next_runs: list[datetime]
    warnings: list[str]
