"""What a POST /workflows body may hold (contract section 4): a batch whose jobs have names, and wait for each other."""

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, SkipValidation

from accepted.services.batches.requests import MAX_JOBS, BatchOptions
from accepted.services.jobs.requests import JobRequest, Name, distinct


class WorkflowJobRequest(JobRequest):
    """A job of a workflow: it runs when all that it depends on succeeded."""

    model_config = ConfigDict(title="WorkflowJobRequest")

    ref: Name
    depends_on: Annotated[list[Name], Field(max_length=MAX_JOBS), AfterValidator(distinct)] = Field(
        default_factory=list
    )


class WorkflowRequest(BatchOptions):
    """A workflow to accept, all of it or nothing. Its members are checked one by one, as POST /jobs checks them."""

    model_config = ConfigDict(title="WorkflowRequest")

    jobs: Annotated[list[SkipValidation[WorkflowJobRequest]], Field(min_length=1, max_length=MAX_JOBS)]
