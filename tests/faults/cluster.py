"""The service as it runs in production: an API, workers and a scheduler, each a real process of its own."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import StartService
from tests.faults import effects
from tests.support.ports import free_port
from tests.support.processes import Service, answers, logged

READY_WITHIN = 60.0  # seconds, for processes that start together on a busy machine


class Cluster:
    """One service on one database and one virtual host.

    `env` may be changed before a process starts: `cluster.env["ACCEPTED_LEASE_TTL"] = "2"`. `api_env` and
    `inner_env` (workers and scheduler) come on top, for a proxy on one side only.
    """

    def __init__(self, start_service: StartService, database_url: str, broker_url: str, directory: Path) -> None:
        self._start_service = start_service
        self.journal = directory / "effects"
        self.port = free_port()
        self.env = {
            "ACCEPTED_DATABASE_URL": database_url,
            "ACCEPTED_BROKER_URL": broker_url,
            "ACCEPTED_AUTH": "off",
            "ACCEPTED_EGRESS_ALLOW": "127.0.0.0/8",
            "ACCEPTED_HANDLERS": "workers.handlers,tests.faults.effects",
            "ACCEPTED_LEASE_TTL": "3",
            "ACCEPTED_SHUTDOWN_GRACE": "10",
            effects.JOURNAL: str(self.journal),
        }
        self.api_env: dict[str, str] = {}
        self.inner_env: dict[str, str] = {}
        self.workers: list[Service] = []
        self._api: Service | None = None
        self._scheduler: Service | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> Service:
        assert self._api is not None
        return self._api

    @property
    def scheduler(self) -> Service:
        assert self._scheduler is not None
        return self._scheduler

    async def start(self, *, workers: int = 2, concurrency: int = 10) -> "Cluster":
        """Start everything at once and wait until all of it is ready."""
        self._api = self._start("api", "--port", str(self.port), extra=self.api_env)
        self._scheduler = self._start("scheduler", extra=self.inner_env)
        await asyncio.gather(
            self.api_ready(),
            self._scheduler.wait_ready(logged("scheduler_ready"), READY_WITHIN),
            *(self.add_worker(concurrency) for _ in range(workers)),
        )
        return self

    async def add_worker(self, concurrency: int = 10, queues: str = effects.QUEUE + ",webhooks") -> Service:
        worker = self._start("worker", "--queues", queues, "--concurrency", str(concurrency), extra=self.inner_env)
        self.workers.append(worker)
        await worker.wait_ready(logged("worker_ready"), READY_WITHIN)
        return worker

    async def restart_worker(self, worker: Service) -> None:
        """Start one that has ended, and wait until it is ready: before that it cannot even stop cleanly."""
        before = worker.log(10_000).count("worker_ready")
        worker.start()
        await worker.wait_ready(lambda one: one.log(10_000).count("worker_ready") > before, READY_WITHIN)

    async def api_ready(self) -> None:
        await self.api.wait_ready(answers(f"{self.url}/readyz"), READY_WITHIN)

    def _start(self, *arguments: str, extra: Mapping[str, str]) -> Service:
        return self._start_service(*arguments, env={**self.env, **extra})
