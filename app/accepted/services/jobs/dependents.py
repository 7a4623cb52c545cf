"""What the end of a job means for those that wait for it: their turn, or their own end."""

from collections.abc import Sequence

from accepted.broker.base import Broker
from accepted.domain.job import Status
from accepted.storage.db.statements import Connection
from accepted.storage.jobs import dependencies, ordering
from accepted.storage.jobs.cancellation import StatusChange


async def follow(conn: Connection, broker: Broker, ended: Sequence[StatusChange]) -> list[StatusChange]:
    """Release whoever waits for those of `ended` that have dependents, and cancel whoever needed more than their end.

    Returns the cancelled ones, which have ended by it in the same transaction: what follows from their end is the
    caller's to see to, but for those that wait for them.
    """
    needed = [one for one in ended if one.has_dependents]
    if not needed:
        return []
    unsuccessful = [one.job_id for one in needed if one.status != Status.SUCCEEDED]
    cancelled = await dependencies.cancel_behind(conn, unsuccessful) if unsuccessful else []
    over = [one.job_id for one in (*needed, *cancelled) if one.has_dependents]
    succeeded = [one.job_id for one in needed if one.status == Status.SUCCEEDED]
    await ordering.share(conn, over)
    queues: set[str] = set()
    while over:  # a statement passes a bounded part of a line; the next goes on here, so nobody else has to
        released = await dependencies.release(conn, over, succeeded, published=broker.handoff is None)
        queues |= released.queues
        over, succeeded = released.passed_by, []
    await broker.announce(conn, queues)
    return cancelled
