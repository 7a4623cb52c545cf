"""The product, as the machine drives it: its own services and loops on a real PostgreSQL, and our clock.

The ledger decides by its own `now()`. So time passes by moving every timestamp that it holds into the past, in one
transaction; which columns those are, the tables themselves say. The rescuer, which also looks at a clock of its own,
is given ours.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy import DateTime

from accepted.broker.postgres import PostgresBroker
from accepted.domain.job import Job
from accepted.domain.retry import Retry
from accepted.domain.transitions import RunningAttempt, Transition
from accepted.services.jobs.completion import settle
from accepted.services.jobs.submission import Submissions
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import workers
from accepted.storage.attempts import claims
from accepted.storage.attempts.claims import Claim
from accepted.storage.db.engine import create_engine, transaction
from accepted.storage.db.monitoring_tables import metadata
from accepted.storage.jobs import outbox
from accepted.storage.jobs.reading import jobs_by_id
from accepted_worker.scheduler.ending import Expiry, Rescuer
from accepted_worker.scheduler.relay import Reconciler, Relay
from tests.model import rows
from tests.model.rows import UNIT, Snapshot
from tests.support.ledger.poll_connection import PollConnection
from tests.support.servers.postgres import connect

LEASE_TTL = 0.5 * UNIT
KEYS_TTL = 3.5 * UNIT
MOST = 500

Answer = TypeVar("Answer")

_EMPTY = f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)}"
_PASS = ";".join(
    f"UPDATE {table.name} SET " + ", ".join(f"{name} = {name} - interval '{{seconds}} s'" for name in moments)
    for table in metadata.sorted_tables
    if (moments := [column.name for column in table.columns if isinstance(column.type, DateTime)])
)


class Clock:
    """`time.monotonic`, as the rescuer sees it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Forgetful(PostgresBroker):
    """A broker that was wiped."""

    is_ledger = False

    async def depths(self, queues: Iterable[str]) -> dict[str, int]:
        return dict.fromkeys(queues, 0)


class Ledger:
    """One database and one event loop for all examples; `reset` begins the next one."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._clock = clock
        self.engine = create_engine(url)
        self.broker = PostgresBroker(self.engine, url)
        self.submissions = Submissions(self.engine, self.broker, KEYS_TTL)
        self._relay = Relay(self.engine, self.broker, PollConnection(self.engine))
        self._expiry = Expiry(self.engine, self.broker, PollConnection(self.engine))
        self._rescuer = Rescuer(self.engine, self.broker, LEASE_TTL, Measurements())
        self._reconcilers = Reconciler(self.engine, self.broker), Reconciler(self.engine, Forgetful(self.engine, url))
        self._conn: asyncpg.Connection[Any] = self.run(connect(url))

    def run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        return self._runner.run(coroutine)

    def close(self) -> None:
        self.run(self._close())
        self._runner.close()

    async def reset(self) -> None:
        await self._conn.execute(_EMPTY)

    async def snapshot(self) -> Snapshot:
        return await rows.read(self._conn)

    async def pass_time(self, units: int) -> None:
        await self._conn.execute(f"BEGIN; {_PASS.format(seconds=units * UNIT)}; COMMIT")
        self._clock.now += units * UNIT

    async def beat(self, worker: UUID) -> None:
        async with transaction(self.engine) as conn:
            await workers.heartbeat(conn, worker, "w")
            await conn.commit()

    async def retire(self, worker: UUID) -> None:
        async with transaction(self.engine) as conn:
            await workers.retire(conn, worker)
            await conn.commit()

    async def job(self, job_id: UUID) -> Job:
        async with transaction(self.engine) as conn:
            return (await jobs_by_id(conn, [job_id]))[job_id]

    async def claim_next(self, worker: UUID, queues: list[str], most: int) -> list[Claim]:
        async with transaction(self.engine) as conn:
            found = await claims.claim_next(conn, worker, queues, most)
            await conn.commit()
        return found

    async def claim_refs(self, worker: UUID, refs: list[tuple[UUID, int]]) -> list[Claim]:
        async with transaction(self.engine) as conn:
            found = await claims.claim_refs(conn, worker, refs)
            await conn.commit()
        return found

    async def settle(self, *batch: Transition) -> Sequence[bool]:
        return await settle(self.engine, self.broker, batch)

    async def relay(self) -> int:
        return await self._relay.run_once()

    async def relay_dies(self, hold: float) -> None:
        """A relay has taken what is due for `hold` seconds, perhaps published it, and noted nothing."""
        async with transaction(self.engine) as conn:
            await outbox.take_due(conn, MOST, hold)
            await conn.commit()

    async def expire(self) -> int:
        return await self._expiry.run_once()

    async def reconcile(self) -> int:
        return await self._reconcilers[0].run_once()

    async def restore(self) -> int:
        return await self._reconcilers[1].run_once()

    async def rescue(self) -> int:
        """A rescuer that has not watched for a while judges nobody; after its third look it has seen enough."""
        looks = []
        for pause in (1.0, 0.2, 0.2):
            self._clock.now += pause * LEASE_TTL
            looks.append(await self._rescuer.run_once())
        assert looks[:2] == [0, 0], "the rescuer judged before it had watched"
        return looks[2]

    async def _close(self) -> None:
        await self.submissions.close()
        await self._conn.close()
        await self.engine.dispose()


def running_attempt(claim: Claim, **fields: Any) -> RunningAttempt:
    """What a worker knows of an attempt; `accepted_worker.runtime.executor` makes the same of a claim."""
    assert claim.retry is not None
    return RunningAttempt(
        job_id=claim.job.id, attempt=claim.job.attempt, worker_id=claim.worker_id,
        max_attempts=claim.job.max_attempts, crashes=claim.crashes,
        retry=msgspec.json.decode(claim.retry, type=Retry), **fields,
    )  # fmt: skip
