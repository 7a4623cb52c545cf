"""What follows from the end of a job, in the transaction that ends it: nobody has to come back and look for it."""

from collections.abc import Sequence

from accepted.broker.base import Broker
from accepted.services import webhooks
from accepted.services.jobs import dependents
from accepted.storage import batch_ends
from accepted.storage.db.statements import Connection
from accepted.storage.jobs.cancellation import StatusChange


async def follow(conn: Connection, broker: Broker, moved: Sequence[StatusChange]) -> None:
    """For those of `moved` that have ended by it: whoever waits for them, all webhooks, and word to their batches.

    The caller commits.
    """
    ended = [one for one in moved if one.finished]
    ended += await dependents.follow(conn, broker, ended)
    await batch_ends.append(conn, ended)
    await webhooks.record(conn, broker, [one.job_id for one in ended if one.wants_webhook])
