"""The fence of everything that an attempt writes."""

from uuid import UUID

import msgspec


class Lease(msgspec.Struct, frozen=True):
    """Which attempt of which job, and which worker runs it. Good for as long as the ledger agrees with all three."""

    job_id: UUID
    attempt: int
    worker_id: UUID
