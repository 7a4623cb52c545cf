"""What the bodies of POST /queues/{name}/lease and POST /leases/{lease}/… may hold."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr

from accepted.services.jobs.requests import Number
from accepted.services.lease_waiters import MAX_LEASES

MAX_WAIT = 60.0
MAX_TYPES = 100
MAX_TEXT = 100_000
"""Characters that are read of a message, far more than are kept."""


class LeaseRequest(BaseModel):
    """How many jobs, how long to wait for the first, and of which types; without `types`, of any."""

    model_config = ConfigDict(extra="forbid", title="LeaseRequest")

    max: Annotated[StrictInt, Field(ge=1, le=MAX_LEASES)] = 1
    wait: Annotated[Number, Field(ge=0, le=MAX_WAIT, description="seconds")] = 0.0
    types: (
        Annotated[
            list[Annotated[StrictStr, Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=MAX_TYPES)
        ]
        | None
    ) = None


class CompleteRequest(BaseModel):
    """The job has succeeded."""

    model_config = ConfigDict(extra="forbid", title="CompleteRequest")

    result: Any = None


class FailRequest(BaseModel):
    """The attempt has failed. `cancelled` is for a job that is to be cancelled."""

    model_config = ConfigDict(extra="forbid", title="FailRequest")

    class_: Annotated[
        Literal["transient", "rate_limited", "invalid", "auth", "not_found", "timeout", "crashed", "cancelled"],
        Field(alias="class"),
    ]
    message: Annotated[StrictStr, Field(max_length=MAX_TEXT)] = ""
    retry_after: (
        Annotated[Number, Field(ge=0, description="seconds before which it is not tried again; at most a day counts")]
        | None
    ) = None


class ProgressRequest(BaseModel):
    """How far the attempt is."""

    model_config = ConfigDict(extra="forbid", title="ProgressRequest")

    percent: Annotated[StrictInt | StrictFloat, Field(ge=0, le=100)]
    message: Annotated[StrictStr, Field(max_length=MAX_TEXT)] = ""


class HeartbeatRequest(BaseModel):
    """Nothing: the request says it all."""

    model_config = ConfigDict(extra="forbid", title="HeartbeatRequest")
