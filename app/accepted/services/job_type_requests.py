"""What a PUT /job-types/{name} body may hold, and the type that it makes."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictStr

from accepted.domain import json_text
from accepted.domain.failures import OnNotFound
from accepted.domain.job import DEFAULT_QUEUE, DEFAULT_TIMEOUT, QUEUE_PATTERN, TYPE_PATTERN, JobType
from accepted.domain.retry import Retry
from accepted.errors import FieldError, InvalidRequest
from accepted.services.jobs.requests import MAX_TIMEOUT, Number, RetryRequest
from accepted.services.jobs.validation import checked
from accepted.services.payload_schema import check_schema

MAX_DESCRIPTION = 500
"""Characters."""


class JobTypeRequest(BaseModel):
    """A type whose jobs are leased over HTTP. A PUT is the whole of it: what is left out gets its default."""

    model_config = ConfigDict(extra="forbid", title="JobTypeRequest")

    description: Annotated[StrictStr, Field(max_length=MAX_DESCRIPTION)] = ""
    queue: Annotated[StrictStr, Field(pattern=QUEUE_PATTERN)] = DEFAULT_QUEUE
    retry: RetryRequest | None = None
    timeout: Annotated[Number, Field(gt=0, le=MAX_TIMEOUT, description="seconds")] = DEFAULT_TIMEOUT
    not_found: OnNotFound = OnNotFound.FAIL
    payload_schema: dict[str, Any] = Field(default_factory=dict, description="JSON Schema of the payload")


def read(name: str, parsed: Any) -> JobType:
    """The external type that the body asks for. Raises `InvalidRequest`."""
    if not re.fullmatch(TYPE_PATTERN, name):
        raise InvalidRequest([FieldError("/name", f"must match {TYPE_PATTERN}")])
    asked = checked(JobTypeRequest, parsed)
    check_schema(asked.payload_schema)
    return JobType(
        name=name,
        description=asked.description,
        queue=asked.queue,
        retry=asked.retry.over(Retry()) if asked.retry else Retry(),
        timeout=asked.timeout,
        payload_schema=json_text.encode(asked.payload_schema).decode(),
        not_found=asked.not_found,
        external=True,
    )
