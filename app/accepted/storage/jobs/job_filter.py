"""Which jobs a client means: the filters of GET /jobs and of acts on many jobs, as conditions on `jobs`."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.job import INTERNAL_TYPES

_CONDITIONS = {
    "statuses": "status = ANY(CAST(:statuses AS text[]))",
    "queue": "queue = :queue",
    "type": "type = :type",
    "batch_id": "batch_id = :batch_id",
    "parent_id": "parent_id = :parent_id",
    "root_id": "(root_id = :root_id OR id = :root_id)",
    "created_after": "created_at > :created_after",
    "created_before": "created_at < :created_before",
    "finished_after": "finished_at > :finished_after",
    "finished_before": "finished_at < :finished_before",
    "tag": "tags @> ARRAY[CAST(:tag AS text)]",
    "error_text": "status = 'failed' AND position(lower(CAST(:error_text AS text)) IN lower(error ->> 'message')) > 0",
    "error_class": "error ->> 'class' = :error_class",
    "metadata": "CAST(metadata AS jsonb) @> CAST(:metadata AS jsonb)",
}
"""On `jobs`, by the fields of `JobFilter`; what costs least comes first."""


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs; None does not restrict. `root_id` matches the root, too. `metadata` holds pairs that the job has.

    `error_text` is looked for in the messages of failed jobs, whatever its case.
    """

    statuses: list[str] | None = None
    queue: str | None = None
    type: str | None = None
    tag: str | None = None
    batch_id: UUID | None = None
    parent_id: UUID | None = None
    root_id: UUID | None = None
    error_class: str | None = None
    error_text: str | None = None
    metadata: dict[str, str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    finished_after: datetime | None = None
    finished_before: datetime | None = None

    def given(self) -> dict[str, Any]:
        """The values of the conditions that restrict, by field."""
        values = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        if self.metadata is not None:
            values["metadata"] = msgspec.json.encode(self.metadata).decode()
        return values


def values_of(tenant: str, given: dict[str, Any]) -> dict[str, Any]:
    """The values of `conditions(given)`."""
    return given | {"tenant": tenant, "internal_types": list(INTERNAL_TYPES)}


def conditions(given: frozenset[str]) -> str:
    """The jobs of a tenant that match and are not deleted. Internal types do only if type or queue is given.

    One expression, which no index has: PostgreSQL might prefer that of one of the conditions, and sort by it."""
    each = ["tenant = :tenant", "deleted_at IS NULL", *(sql for name, sql in _CONDITIONS.items() if name in given)]
    if not given & {"type", "queue"}:
        each.append("type <> ALL(CAST(:internal_types AS text[]))")
    return f"COALESCE({' AND '.join(each)}, false)"
