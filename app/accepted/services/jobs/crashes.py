"""Who is charged when a process of jobs dies: the culprit, where it is known."""

import random
from collections.abc import Sequence
from uuid import UUID

import structlog

from accepted.broker.base import Broker
from accepted.domain import transitions
from accepted.domain.references import Lease
from accepted.services.jobs.completion import record
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import workers
from accepted.storage.db.statements import Connection

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
    charged = [end for end, done in zip(ends, applied, strict=True) if done and end.running.lease == culprit]
    await measurements.crashed(conn, charged)
    await measurements.write(conn)
    for worker_id in worker_ids:
        await workers.retire(conn, worker_id)
    siblings = sum(done for one, done in zip(running, applied, strict=True) if one.lease != culprit)
    log.error("culprit_charged", job_id=str(culprit.job_id), attempt=culprit.attempt, handed_back=siblings)
    return siblings
