"""A batch: a name on many jobs, what is to happen when one of them fails, and what they have come to.

Pure values. `to_wire` is the JSON of contract section 4, used alike by the 202, by GET and inside the webhook.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

import msgspec

from accepted.domain.job import NewJob

OnFailure: TypeAlias = Literal["continue", "cancel"]

FINISHED_EVENT = "batch.finished"


class NewBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that was checked and is to be inserted. `total` is how many members it has."""

    id: UUID
    tenant: str
    total: int
    workflow: bool = False
    on_failure: OnFailure = "continue"
    callback_url: str | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as the ledger holds it. `counts` is by status, and holds no zeros."""

    id: UUID
    tenant: str
    workflow: bool
    total: int
    counts: Mapping[str, int]
    created_at: datetime
    finished_at: datetime | None = None


class Spread(msgspec.Struct, frozen=True):
    """When the members of a batch run: number i of n at `start` plus i/n of `window` seconds; no start is now."""

    start: datetime | None = None
    window: float = 0.0

    def placed(self, job: NewJob, number: int, total: int) -> NewJob:
        """`job` as number `number`, from 0, of `total`."""
        after = self.window * number / total
        if self.start is not None:
            return msgspec.structs.replace(job, run_at=self.start + timedelta(seconds=after))
        return msgspec.structs.replace(job, delay=after) if self.window else job


def to_wire(batch: Batch) -> dict[str, Any]:
    """The batch of contract section 4."""
    return {
        "id": batch.id,
        "total": batch.total,
        "counts": dict(batch.counts),
        "finished": batch.finished_at is not None,
        "created_at": batch.created_at,
        "finished_at": batch.finished_at,
    }
