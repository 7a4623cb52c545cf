"""Accepting jobs of our own making in a transaction of their cause: children of a success, runs of a schedule."""

from collections.abc import Sequence

from accepted.broker.base import Broker
from accepted.domain.job import NewJob
from accepted.services.jobs import ordering
from accepted.storage.db import notifications
from accepted.storage.db.statements import Connection
from accepted.storage.jobs import submission
from accepted.storage.jobs.submission import Entry

MOST = notifications.MAX_IDS
"""Jobs in one statement."""


async def accept(conn: Connection, broker: Broker, jobs: Sequence[NewJob]) -> None:
    """Insert these jobs, which have passed `JobChecks`. The relay publishes them. The caller commits."""
    handoff = None if broker.handoff is None else 0.0
    jobs = await ordering.line_up(conn, jobs)
    for start in range(0, len(jobs), MOST):
        batch = [Entry(job, handoff=handoff) for job in jobs[start : start + MOST]]
        await submission.insert(conn, batch, idempotency_ttl=0)
    if queues := {job.queue for job in jobs}:
        await submission.announce_queues(conn, list(queues))
        await broker.announce(conn, queues)
