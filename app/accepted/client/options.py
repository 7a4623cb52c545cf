"""What may be given with a submission or a search, by name. The service checks the values: docs/http.md."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict

from accepted.domain.retry import Retry

JobKind: TypeAlias = str | Callable[..., Any]
"""The name of a type, or the handler's function (`@job`)."""

Moment: TypeAlias = datetime | str
"""A time with an offset, or RFC 3339."""


class JobOptions(TypedDict, total=False):
    """Fields of a job beside its type and payload. None is as if it were not given."""

    queue: str | None
    priority: int | None
    run_at: Moment | None
    delay: float | None
    expires_at: Moment | None
    timeout: float | None
    retry: Retry | Mapping[str, Any] | None
    callback_url: str | None
    callback_events: Sequence[str] | None
    concurrency_key: str | None
    tags: Sequence[str] | None
    metadata: Mapping[str, str] | None


class SubmitOptions(JobOptions, total=False):
    """What `submit` takes: without an `idempotency_key` each call has one of its own."""

    idempotency_key: str | None
    ordering_key: str | None
    unique: Mapping[str, str] | None


class ManyOptions(TypedDict, total=False):
    """What `batch` and `workflow` take."""

    spread_over: float | None
    start_at: Moment | None
    callback_url: str | None
    on_failure: Literal["continue", "cancel"] | None
    idempotency_key: str | None


class SearchFilters(TypedDict, total=False):
    """What `jobs` takes: the filters of GET /jobs. Several statuses are a list."""

    status: str | Sequence[str] | None
    queue: str | None
    type: str | None
    tag: str | None
    batch_id: str | None
    parent_id: str | None
    root_id: str | None
    error_class: str | None
    error_text: str | None
    metadata: Mapping[str, str] | None
    created_after: Moment | None
    created_before: Moment | None
    finished_after: Moment | None
    finished_before: Moment | None
    sort: Literal["run_at"] | None
    include: str | Sequence[str] | None
