"""What may be set for a queue, and how a queue is shown."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from accepted.domain.rates import DRAIN_WITHIN
from accepted.services.jobs.requests import Number

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


class DepthView(BaseModel):
    """Jobs that have not finished, by status."""

    scheduled: int
    blocked: int
    queued: int
    running: int
    retrying: int


class QueueView(BaseModel):
    """A queue: its limits (null is no limit), what is on it, and what was measured (null: nothing was)."""

    name: str
    paused: bool
    max_running: int | None
    rate_limit: RateView | None
    max_running_per_key: int | None
    max_depth: int | None
    depth: DepthView
    depth_of: Literal["all", "tenant"] = Field(description="Whose jobs `depth` and `oldest_waiting_age` are about.")
    oldest_waiting_age: float | None = Field(description="Seconds that the oldest queued job has been ready.")
    rate_in: float | None = Field(description="Jobs a second that came due.")
    rate_out: float | None = Field(description="Attempts a second that ended.")
    mean_run_time: float | None = Field(description="Seconds, of attempts.")
    measured_over: float | None = Field(description="Seconds that the rates are about.")
    slots: int = Field(description="Of all live workers that serve it; they may serve other queues, too.")


class QueueList(BaseModel):
    items: list[QueueView]


class SizingQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    drain_within: Annotated[float, Field(gt=0, le=LONGEST, allow_inf_nan=False, description="seconds")] = DRAIN_WITHIN


class SizingView(BaseModel):
    """How many slots a queue needs, by Little's law; null where that cannot be said yet."""

    queue: str
    arrival_rate: float | None
    mean_run_time: float | None
    measured_over: float | None
    backlog: int
    drain_within: float
    slots: int = Field(description="What there is.")
    slots_at_least: int | None = Field(description="To keep up with what comes.")
    slots_advised: int | None = Field(description="With headroom, and to work off the backlog in `drain_within`.")
    detail: str
