"""A job whose status a statement has just changed: what whoever committed it has to see to in the same transaction."""

from uuid import UUID

import msgspec

from accepted.domain.job import FINISHED


class Moved(msgspec.Struct, frozen=True):
    """The job as it is now, and whom its end concerns."""

    job_id: UUID
    status: str
    wants_webhook: bool
    has_dependents: bool
    batch_id: UUID | None

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


COLUMNS = """
    j.id, j.status, j.callback_url IS NOT NULL AND 'job.' || j.status = ANY(j.callback_events) AS wants_webhook,
    j.has_dependents, j.batch_id
"""
"""What a statement that changes `jobs AS j` returns of each, in the order of the fields."""
