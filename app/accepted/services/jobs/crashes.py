"""Who is charged when a process of jobs dies: the culprit, where it is known."""

import random
from collections.abc import Sequence
from uuid import UUID

import structlog

from accepted.broker.base import Broker
from accepted.domain import transitions
from accepted.domain.job import Status
from accepted.domain.references import Lease
from accepted.services.jobs.completion import record
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import workers
from accepted.storage.db.statements import Connection
from accepted.storage.monitoring import statistics

log = structlog.get_logger(__name__)


async def charge_culprit(
    conn: Connection, broker: Broker, worker_ids: Sequence[UUID], culprit: Lease, message: str
) -> int:
    """End every open attempt of a process that `culprit` takes along: its own as `crashed`, with `message`.

    The others go back to their queues uncharged: no attempt is burned, and no crash is counted. `worker_ids` are the
    lanes of the process; they are retired, so they must not claim again. Of the broker only `is_ledger` and `announce`
    are used, so any event loop may call this. Returns how many others were handed back. The caller commits.
    """
    running = await workers.open_attempts(conn, worker_ids)
    ends = [
        transitions.crashed(one, random.random(), message) if one.lease == culprit else transitions.handed_back(one)
        for one in running
    ]
    applied = await record(conn, broker, ends) if ends else []
    measurements = Measurements()
    dead = [one.running.job_id for one in ends if one.status is Status.FAILED]
    measurements.crashed(await statistics.series_of(conn, [culprit.job_id]), await statistics.series_of(conn, dead))
    await measurements.write(conn)
    for worker_id in worker_ids:
        await workers.retire(conn, worker_id)
    siblings = sum(done for one, done in zip(running, applied, strict=True) if one.lease != culprit)
    log.error("culprit_charged", job_id=str(culprit.job_id), attempt=culprit.attempt, handed_back=siblings)
    return siblings
