"""The body of POST /jobs (contract section 4), checked field by field, and types that other bodies share."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
)

from accepted.domain.job import DEFAULT_PRIORITY, QUEUE_PATTERN
from accepted.domain.json_text import is_printable
from accepted.domain.retry import Retry

YEAR = 366 * 86400.0
"""Seconds, as `MAX_TIMEOUT`."""

MAX_TIMEOUT = 7 * 86400.0
MAX_ATTEMPTS = 100

MAX_KEY = 255
"""Characters."""

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:[0-5]\d)")


def _moment(value: object) -> datetime:
    """An RFC 3339 time with an offset, as UTC. Digits beyond microseconds are dropped."""
    if not isinstance(value, str) or not (found := _RFC3339.fullmatch(value)):
        raise ValueError("must be an RFC 3339 time with an offset, such as 2026-11-23T19:00:00Z")
    text = value.replace(found[1], found[1][:7]) if found[1] else value
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not a valid date or time") from None


def printable(text: str) -> str:
    if not is_printable(text):
        raise ValueError("must have printable characters only, and none that change the direction of text")
    return text


def distinct(values: list[str]) -> list[str]:
    """`values` without repetitions, in their order."""
    return list(dict.fromkeys(values))


Moment = Annotated[
    datetime,
    BeforeValidator(_moment, json_schema_input_type=Annotated[str, Field(json_schema_extra={"format": "date-time"})]),
]
Number = StrictFloat
Name = Annotated[StrictStr, Field(min_length=1, max_length=64), AfterValidator(printable)]
Key = Annotated[StrictStr, Field(min_length=1, max_length=MAX_KEY), AfterValidator(printable)]
Metadata = Annotated[dict[Name, Annotated[StrictStr, Field(max_length=500)]], Field(max_length=50)]
EndEvent = Literal["job.succeeded", "job.failed", "job.cancelled", "job.expired"]


class RetryRequest(BaseModel):
    """A retry policy. Omitted fields are taken from the type."""

    model_config = ConfigDict(extra="forbid", title="Retry")

    max_attempts: Annotated[StrictInt, Field(ge=1, le=MAX_ATTEMPTS)] | None = None
    schedule: Annotated[list[Annotated[Number, Field(ge=0, le=YEAR)]], Field(min_length=1, max_length=100)] | None = (
        None
    )
    jitter: Annotated[Number, Field(ge=0, le=1)] | None = None

    def over(self, default: Retry) -> Retry:
        """The policy, with omitted fields taken from `default`."""
        return Retry(
            max_attempts=default.max_attempts if self.max_attempts is None else self.max_attempts,
            schedule=default.schedule if self.schedule is None else tuple(map(float, self.schedule)),
            jitter=default.jitter if self.jitter is None else float(self.jitter),
        )


class UniqueRequest(BaseModel):
    """While a job has this key, no other job with it is accepted: its submission is answered with that job."""

    model_config = ConfigDict(extra="forbid", title="Unique")

    key: Key
    until: Literal["started", "finished"]


class JobRequest(BaseModel):
    """A job to accept."""

    model_config = ConfigDict(extra="forbid", title="JobRequest")

    type: Annotated[StrictStr, Field(min_length=1, max_length=100)]
    payload: dict[str, Any] = Field(default_factory=dict)
    queue: Annotated[StrictStr, Field(pattern=QUEUE_PATTERN)] | None = None
    priority: Annotated[StrictInt, Field(ge=0, le=9)] = DEFAULT_PRIORITY
    run_at: Moment | None = None
    delay: Annotated[Number, Field(ge=0, le=YEAR, description="seconds")] | None = None
    expires_at: Moment | None = None
    timeout: Annotated[Number, Field(gt=0, le=MAX_TIMEOUT, description="seconds")] | None = None
    retry: RetryRequest | None = None
    callback_url: Annotated[StrictStr, Field(max_length=2048)] | None = None
    callback_events: Annotated[list[EndEvent], Field(min_length=1, max_length=4), AfterValidator(distinct)] | None = (
        None
    )
    tags: Annotated[list[Name], Field(max_length=20), AfterValidator(distinct)] = Field(default_factory=list)
    metadata: Metadata = Field(default_factory=dict)
    concurrency_key: Key | None = None
    ordering_key: Key | None = None
    unique: UniqueRequest | None = None
