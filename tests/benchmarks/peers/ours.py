"""Accepted as a row of the table: `accepted api`, `scheduler` and `worker`, told only where the servers are."""

from dataclasses import dataclass

from tests.benchmarks.peers.peer import PREPARED_WITHIN
from tests.benchmarks.peers.recorded import Recorded
from tests.benchmarks.peers.servers import Place
from tests.support.servers.postgres import connect
from tests.support.service.processes import Service, logged, run
from tests.support.waiting import until

PUBLISHED_WITHIN = 120.0  # seconds

_PUBLISHED = "SELECT NOT EXISTS (SELECT FROM outbox WHERE NOT published)"

UNFINISHED = "SELECT EXISTS (SELECT FROM outbox) OR EXISTS (SELECT FROM attempts WHERE finished_at IS NULL)"

SPAN = "SELECT count(*), min(started_at), max(finished_at) FROM jobs WHERE status = 'succeeded'"


@dataclass(frozen=True)
class Accepted(Recorded):
    unfinished: str = UNFINISHED
    span: str = SPAN

    async def prepared(self, place: Place) -> None:
        """Migrate, and let a worker register its types."""
        run("migrate", env=self._environment(place))
        worker = self._service("worker --queues=nothing", place).start()
        try:
            await worker.wait_ready(logged("worker_ready"), PREPARED_WITHIN)
            await worker.terminate()
        finally:
            worker.remove()

    def beside(self, place: Place) -> list[Service]:
        return [self._service("scheduler", place)]

    async def until_submitted(self, place: Place) -> None:
        """On RabbitMQ, until every job is published and confirmed."""
        if "rabbitmq" not in place.urls:
            return
        conn = await connect(place.urls["postgres"])
        try:
            await until(lambda: conn.fetchval(_PUBLISHED), PUBLISHED_WITHIN, "everything published", interval=0.1)
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
