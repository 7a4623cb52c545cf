"""A job type: what the API needs to know to accept a job that it cannot run."""

from datetime import datetime

import msgspec

from accepted.domain.failures import OnNotFound
from accepted.domain.retry import Retry


class JobType(msgspec.Struct, frozen=True, kw_only=True):
    """A registered type. `payload_schema` is JSON Schema as text; `timeout` in seconds; None means no limit.

    An `internal` type is ours alone: nobody may submit it over HTTP. An `external` one was registered over HTTP, and is
    run by workers that lease its jobs there.
    """

    name: str
    description: str
    queue: str
    retry: Retry
    timeout: float | None
    payload_schema: str
    internal: bool = False
    not_found: OnNotFound = OnNotFound.FAIL
    external: bool = False
    updated_at: datetime | None = None
