"""The audit: which acts are recorded, and what a record says."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec


class Action(StrEnum):
    """An act of a person or of a program that changes how others' jobs fare. Plurals are acts on all that match."""

    QUEUE_CHANGED = "queue.changed"
    QUEUE_DELETED = "queue.deleted"
    JOB_RETRIED = "job.retried"
    JOB_DELETED = "job.deleted"
    JOBS_CANCELLED = "jobs.cancelled"
    JOBS_RETRIED = "jobs.retried"
    JOBS_DELETED = "jobs.deleted"
    BATCH_CANCELLED = "batch.cancelled"
    DEAD_LETTER_REPLAYED = "dead_letter.replayed"
    DEAD_LETTERS_REPLAYED = "dead_letters.replayed"
    DEAD_LETTERS_DISCARDED = "dead_letters.discarded"
    SCHEDULE_PUT = "schedule.put"
    SCHEDULE_DELETED = "schedule.deleted"
    SCHEDULE_TRIGGERED = "schedule.triggered"
    WEBHOOK_SECRET_ROTATED = "webhook_secret.rotated"
    TARGET_RELEASED = "target.released"
    WORKER_DRAINED = "worker.drained"
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    QUOTA_CHANGED = "quota.changed"
    SHARE_CHANGED = "share.changed"


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what. `detail` is JSON text and holds neither secrets nor payloads.

    Key and address are None for acts without authentication, and for those made on the ledger itself.
    """

    id: UUID
    at: datetime | None = None
    """Set by the ledger."""
    tenant: str
    key_id: UUID | None
    key_name: str | None
    address: str | None
    action: str
    target: str | None
    detail: str


def to_wire(entry: AuditEntry) -> dict[str, Any]:
    """As `GET /audit` lists it."""
    key = None if entry.key_id is None else {"id": entry.key_id, "name": entry.key_name}
    return {
        "id": entry.id,
        "at": entry.at,
        "tenant": entry.tenant,
        "key": key,
        "address": entry.address,
        "action": entry.action,
        "target": entry.target,
        "detail": msgspec.Raw(entry.detail.encode()),
    }
