"""What a POST /batches body, or the query beside an NDJSON one, may hold (contract section 4)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, StrictStr

from accepted.domain.batch import OnFailure
from accepted.services.jobs.requests import YEAR, JobRequest, Moment, Number

MAX_JOBS = 10_000
"""Members of a batch that comes as one JSON text, which is held in memory whole."""


class BatchOptions(BaseModel):
    """What is asked of a batch beside its jobs."""

    model_config = ConfigDict(extra="forbid")

    spread_over: Annotated[Number, Field(ge=0, le=YEAR, description="seconds")] | None = None
    start_at: Moment | None = None
    callback_url: Annotated[StrictStr, Field(max_length=2048)] | None = None
    on_failure: OnFailure = "continue"


class BatchQuery(BatchOptions):
    """The same in a query, where a number is text."""

    spread_over: Annotated[float, Field(ge=0, le=YEAR, allow_inf_nan=False, description="seconds")] | None = None


class BatchRequest(BatchOptions):
    """A batch of jobs to accept, all or none. Its members are checked one by one, as POST /jobs checks them."""

    model_config = ConfigDict(title="BatchRequest")

    jobs: Annotated[list[SkipValidation[JobRequest]], Field(min_length=1, max_length=MAX_JOBS)]
