"""Accepted as a row of the table: `accepted api`, `scheduler` and `worker`, told only where the servers are."""

from dataclasses import dataclass
from typing import Any

import asyncpg

from tests.benchmarks.peers.counts import Ended
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.servers import Place
from tests.support.servers.postgres import connect
from tests.support.service.processes import Service, logged, run
from tests.support.waiting import until

PUBLISHED_WITHIN = 120.0  # seconds

_UNPUBLISHED = "SELECT EXISTS (SELECT FROM outbox WHERE NOT published)"

_UNFINISHED = "SELECT EXISTS (SELECT FROM outbox) OR EXISTS (SELECT FROM attempts WHERE finished_at IS NULL)"

_ENDED = """
SELECT count(*) AS jobs,
       coalesce(EXTRACT(epoch FROM min(started_at)), 0)::float8 AS first,
       coalesce(EXTRACT(epoch FROM max(finished_at)), 0)::float8 AS last
FROM jobs WHERE status = 'succeeded'
"""


@dataclass(frozen=True)
class Accepted(Peer):
    """Its clock runs from the first claim to the last outcome in the ledger."""

    async def prepared(self, place: Place) -> None:
        """Migrate, and let a worker register its types."""
        run("migrate", env=self._environment(place))
        worker = self._service("worker --queues=nothing", place).start()
        try:
            await worker.wait_ready(logged("worker_ready"))
            await worker.terminate()
        finally:
            worker.remove()

    def beside(self, place: Place) -> list[Service]:
        return [self._service("scheduler", place)]

    async def until_submitted(self, place: Place) -> None:
        """On RabbitMQ, until every job is published and confirmed."""
        conn = await connect(place.urls["postgres"])
        try:
            if "rabbitmq" in place.urls:
                await until(lambda: _none(conn, _UNPUBLISHED), PUBLISHED_WITHIN, "everything published", interval=0.1)
        finally:
            await conn.close()

    async def ended(self, place: Place) -> Ended:
        """None until all have, because a count of them would be work for the ledger that is measured."""
        conn = await connect(place.urls["postgres"])
        try:
            return Ended(*await conn.fetchrow(_ENDED)) if await _none(conn, _UNFINISHED) else Ended()
        finally:
            await conn.close()

    def _service(self, command: str, place: Place) -> Service:
        return Service(*command.split(), env=self._environment(place))

    def _environment(self, place: Place) -> dict[str, str]:
        return {
            "ACCEPTED_DATABASE_URL": place.urls["postgres"],
            "ACCEPTED_BROKER_URL": place.urls.get("rabbitmq", "postgres"),
            "ACCEPTED_AUTH": "off",
        }


async def _none(conn: "asyncpg.Connection[Any]", sql: str) -> bool:
    return not await conn.fetchval(sql)
