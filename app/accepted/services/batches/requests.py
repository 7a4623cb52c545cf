"""What POST /batches and POST /workflows take (contract section 4): a JSON body, or a query beside an NDJSON body."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SkipValidation, StrictStr

from accepted.domain.batch import OnFailure
from accepted.services.jobs.requests import YEAR, JobRequest, Moment, Name, Number, distinct

MAX_JOBS = 10_000
"""Members of a batch in one JSON body, which is held in memory whole."""


class BatchOptions(BaseModel):
    """The fields of a batch besides its jobs."""

    model_config = ConfigDict(extra="forbid")

    spread_over: Annotated[Number, Field(ge=0, le=YEAR, description="seconds")] | None = None
    start_at: Moment | None = None
    callback_url: Annotated[StrictStr, Field(max_length=2048)] | None = None
    on_failure: OnFailure = "continue"


class BatchQuery(BatchOptions):
    """The same fields in a query, where a number is text."""

    spread_over: Annotated[float, Field(ge=0, le=YEAR, allow_inf_nan=False, description="seconds")] | None = None


class BatchRequest(BatchOptions):
    """A batch of jobs to accept, all or none. Each member is checked as POST /jobs checks a job."""

    model_config = ConfigDict(title="BatchRequest")

    jobs: Annotated[list[SkipValidation[JobRequest]], Field(min_length=1, max_length=MAX_JOBS)]


class WorkflowJobRequest(JobRequest):
    """A job of a workflow: it runs when all jobs that it depends on have succeeded."""

    model_config = ConfigDict(title="WorkflowJobRequest")

    ref: Name
    depends_on: Annotated[list[Name], Field(max_length=MAX_JOBS), AfterValidator(distinct)] = Field(
        default_factory=list
    )


class WorkflowRequest(BatchOptions):
    """A workflow to accept, all or nothing: a batch whose jobs have names and wait for each other."""

    model_config = ConfigDict(title="WorkflowRequest")

    jobs: Annotated[list[SkipValidation[WorkflowJobRequest]], Field(min_length=1, max_length=MAX_JOBS)]
