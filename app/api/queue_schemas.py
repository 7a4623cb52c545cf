"""What may be set for a queue, and how a queue is shown."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from app.services.job_request import Number

LARGEST = 1_000_000
"""Jobs in any limit: more than one PostgreSQL can tell from none."""

LONGEST = 86400.0
"""Seconds of a rate's window."""

Limit = Annotated[StrictInt, Field(ge=1, le=LARGEST)]


class RateRequest(BaseModel):
    """So many jobs begin in so many seconds, evenly."""

    model_config = ConfigDict(extra="forbid", title="RateLimit")

    jobs: Limit
    per: Annotated[Number, Field(ge=0.001, le=LONGEST, description="seconds")]


class QueuePatch(BaseModel):
    """What is to change; null removes a limit."""

    model_config = ConfigDict(extra="forbid", title="QueuePatch")

    paused: StrictBool | None = None
    max_running: Limit | None = None
    rate_limit: RateRequest | None = None
    max_running_per_key: Limit | None = None
    max_depth: Limit | None = None

    def columns(self) -> dict[str, Any]:
        """The columns of `queues` that the body names, with their new values."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        if "rate_limit" in given:
            rate = given.pop("rate_limit")
            given |= {"rate_jobs": rate and rate.jobs, "rate_per": rate and float(rate.per)}
        if "paused" in given:
            given["paused"] = bool(given["paused"])
        return given


class RateView(BaseModel):
    jobs: int
    per: float


class QueueView(BaseModel):
    """A queue and its limits; null is no limit."""

    name: str
    paused: bool
    max_running: int | None
    rate_limit: RateView | None
    max_running_per_key: int | None
    max_depth: int | None
