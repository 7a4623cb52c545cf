"""What came of one attempt, as tests of handlers look at it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.job import NewJob
from accepted.domain.transitions import Transition


class LogLine(msgspec.Struct, frozen=True):
    """A line that the handler has logged, as in `GET /jobs/{id}/logs`."""

    at: datetime
    level: str
    message: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class SubmittedChild:
    """A job that the handler has submitted. `delay` is in seconds; None where the handler set none."""

    id: UUID
    type: str
    payload: dict[str, Any]
    queue: str
    priority: int
    run_at: datetime | None
    delay: float | None
    expires_at: datetime | None
    timeout: float | None
    max_attempts: int
    callback_url: str | None
    tags: tuple[str, ...]
    metadata: dict[str, str]
    ordering_key: str | None


@dataclass(frozen=True)
class HandlerOutcome:
    """The end of an attempt: what a worker would record in the ledger."""

    status: str
    """Of the job after the attempt: `succeeded`, `retrying`, `failed`; `queued` if the attempt does not count."""
    result: Any = None
    """What the handler returned, as read back from JSON."""
    failure_class: str | None = None
    """`transient`, `invalid`, …; None after a success."""
    message: str | None = None
    """What clients read in the job's `error`; None after a success."""
    traceback: str | None = None
    retry_in: float | None = None
    """Seconds before the next attempt, if there is one."""
    progress: dict[str, Any] | None = None
    """The last report: `percent` and `message`."""
    steps: dict[str, Any] = field(default_factory=dict)
    """The results of the job's steps by name: those that were given, and those of this attempt."""
    children: list[SubmittedChild] = field(default_factory=list)
    """What the handler has submitted. Empty unless it succeeded, because only then the children are real."""
    logs: list[LogLine] = field(default_factory=list)


def outcome_of(transition: Transition, steps: Mapping[str, str], lines: Iterable[bytes]) -> HandlerOutcome:
    """The outcome that `transition` stands for; `steps` and `lines` are JSON texts."""
    error = _decoded(transition.error) or {}
    return HandlerOutcome(
        status=transition.status,
        result=_decoded(transition.result),
        failure_class=error.get("class"),
        message=error.get("message"),
        traceback=transition.traceback,
        retry_in=transition.wait,
        progress=_decoded(transition.progress),
        steps={name: msgspec.json.decode(result) for name, result in steps.items()},
        children=[_child(each) for each in transition.children],
        logs=[msgspec.json.decode(line, type=LogLine) for line in lines],
    )


_AS_THEY_ARE = [name for name in SubmittedChild.__dataclass_fields__ if name not in ("payload", "metadata")]


def _child(job: NewJob) -> SubmittedChild:
    given = {name: getattr(job, name) for name in _AS_THEY_ARE}
    return SubmittedChild(**given, payload=_decoded(job.payload), metadata=_decoded(job.metadata))


def _decoded(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)
