"""The ids on the lines of a log: of the request that is answered, or of the attempt that runs.

They belong to a context: to the task that binds them, and to what it starts. A task that works for several requests or
attempts runs in a context without them, `apart()`, so that its lines do not name the one that has started it.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from contextvars import Context, ContextVar, copy_context
from itertools import count
from types import MappingProxyType

from accepted.domain.job import Job
from accepted.domain.references import trace_id_of

HEADER = b"x-request-id"
_SANE = re.compile(rb"[A-Za-z0-9._~:/@=+-]{1,128}")
"""What a caller's id may be: a UUID, a trace id of a load balancer. Another is replaced: logs and answers repeat it."""

_NONE: Mapping[str, object] = MappingProxyType({})
_ids: ContextVar[Mapping[str, object]] = ContextVar("_ids", default=_NONE)

_prefix = secrets.token_hex(8)
_numbers = count(1)


def bind(found: Mapping[str, object]) -> None:
    """From now on the lines of this context name these ids."""
    _ids.set(found)


def ids() -> Mapping[str, object]:
    """The ids of this context."""
    return _ids.get()


def apart() -> Context:
    """A copy of this context without its ids."""
    context = copy_context()
    context.run(bind, _NONE)
    return context


def new_request_id() -> str:
    """An id that no other request has, of whatever process."""
    return f"{_prefix}-{next(_numbers):x}"


def ids_of_request(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """`request_id`, the caller's or a new one, and `trace_id`, if the caller has sent a traceparent."""
    request_id = trace_id = None
    for name, value in headers:
        if name == HEADER:
            request_id = value.decode() if _SANE.fullmatch(value) else None
        elif name == b"traceparent":
            trace_id = trace_id_of(value.decode("latin-1"))
    found = {"request_id": request_id or new_request_id()}
    return found if trace_id is None else {**found, "trace_id": trace_id}


def ids_of_attempt(job: Job, traceparent: str | None = None) -> dict[str, object]:
    """`job_id`, `attempt` and `trace_id`, that of the trace which the submission of the job is part of."""
    found: dict[str, object] = {"job_id": job.id, "attempt": job.attempt}
    return found if traceparent is None else {**found, "trace_id": trace_id_of(traceparent)}
