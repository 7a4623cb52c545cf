"""Jobs, batches and their events as the client shows them: the service's JSON as attributes."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from accepted.domain.job import FINISHED, LARGE

TIMES = ("created_at", "run_at", "expires_at", "started_at", "finished_at")


class JobFields:
    """A job, as the service showed it last (docs/http.md). `document` is its JSON; times are `datetime`s."""

    id: str
    type: str
    queue: str
    status: str
    priority: int
    attempt: int
    max_attempts: int
    payload: dict[str, Any]
    result: Any
    error: dict[str, Any] | None
    """`class`, `message` and `attempt` of the last failure."""
    progress: dict[str, Any] | None
    """`percent` and `message`."""
    tags: list[str]
    metadata: dict[str, str]
    ordering_key: str | None
    batch_id: str | None
    parent_id: str | None
    root_id: str
    created_at: datetime
    run_at: datetime
    expires_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None

    def __init__(self, document: dict[str, Any]) -> None:
        self.take(document)

    def take(self, document: dict[str, Any]) -> None:
        """Show this JSON from now on."""
        self.document = document
        self.__dict__.update(_read(document))

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    @property
    def duplicate(self) -> bool:
        """Whether an earlier submission with the same `unique` key made it."""
        return bool(self.document.get("duplicate"))

    def __getattr__(self, name: str) -> Any:
        if name in LARGE:
            raise AttributeError(f"a listed job has no {name}: list with include={name!r}, or call refresh()")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.type} {self.status}>"


class BatchFields:
    """A batch or workflow, as the service showed it last. `counts` has the number of its jobs by status."""

    id: str
    total: int
    counts: dict[str, int]
    finished: bool
    created_at: datetime
    finished_at: datetime | None
    jobs: list[dict[str, Any]]
    """Of a workflow: `ref`, `id`, `status` and `depends_on` of each job."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.take(document)

    def take(self, document: dict[str, Any]) -> None:
        """Show this JSON from now on."""
        self.document = document
        self.__dict__.update({"jobs": []} | _read(document))

    @property
    def succeeded(self) -> bool:
        """Whether all of its jobs have."""
        return self.counts.get("succeeded", 0) == self.total

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.counts}>"


@dataclass(frozen=True, slots=True)
class JobEvent:
    """What happened to a job: `type` is "status" or "progress", and says which fields are there."""

    type: str
    attempt: int
    status: str | None = None
    at: datetime | None = None
    percent: float | None = None
    message: str | None = None


def event_of(kind: str, data: dict[str, Any]) -> JobEvent:
    known = {name: data.get(name) for name in ("status", "percent", "message")}
    return JobEvent(type=kind, attempt=data["attempt"], at=moment(data.get("at")), **known)


def moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _read(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with its times read."""
    return document | {name: moment(document[name]) for name in TIMES if name in document}
