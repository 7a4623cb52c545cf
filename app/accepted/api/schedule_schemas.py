"""The bodies that the schedule routes take, and the shapes of their answers."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from accepted.domain.cron import LONGEST
from accepted.domain.job import Status
from accepted.domain.schedule import OnMissed, Outcome, Overlap
from accepted.services.jobs.requests import YEAR, JobRequest, Moment, Number

SHOWN = 5
"""How many next runs an answer has."""

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Where a preview may begin. Time zone rules of the far future are not known."""


def _must_be_absent(value: object) -> None:
    if value is not None:
        raise ValueError("must be left out: the schedule sets when its jobs run")


def _in_range(value: datetime) -> datetime:
    if not EARLIEST <= value <= LATEST:
        raise ValueError(f"must lie between {EARLIEST.year} and {LATEST.year}")
    return value


SetBySchedule = Annotated[None, BeforeValidator(_must_be_absent, json_schema_input_type=None)]
Cron = Annotated[StrictStr, Field(max_length=LONGEST, description="minute, hour, day of month, month, day of week")]
Timezone = Annotated[StrictStr, Field(max_length=64, description="UTC, or a name of the IANA database")]


class ScheduledJob(JobRequest):
    """A body of POST /jobs without the times."""

    model_config = ConfigDict(extra="forbid", title="ScheduledJob")

    run_at: SetBySchedule = None
    delay: SetBySchedule = None


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
    after: Annotated[Moment, AfterValidator(_in_range)] | None = None
    count: Annotated[StrictInt, Field(ge=1, le=100)] = SHOWN


class ScheduleLinks(BaseModel):
    self: str
    runs: str
    trigger: str


class ScheduleView(BaseModel):
    """A schedule; `job` as it was sent. `next_runs` is empty while the schedule is disabled."""

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
    """A page of schedules, by name; `next` is the cursor of the next page."""

    items: list[ScheduleView]
    next: str | None


class RunView(BaseModel):
    """What happened at one scheduled time; `job_status` is null if there is no job, or no longer."""

    scheduled_at: datetime
    fired_at: datetime
    outcome: Outcome
    reason: str | None
    job_id: UUID | None
    job_status: Status | None


class RunPage(BaseModel):
    """A page of runs, newest first; `next` is the cursor of the next page."""

    items: list[RunView]
    next: str | None


class PreviewView(BaseModel):
    """When a cron line fires, and how changes of the clock affect it."""

    next_runs: list[datetime]
    warnings: list[str]
