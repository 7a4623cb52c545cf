"""The service as it runs in production: APIs, workers and schedulers, each a real process of its own."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from tests.faults import effects
from tests.support.servers.ports import free_port
from tests.support.service.processes import ROOT, SOURCES, Service, StartService, answers, logged

READY_WITHIN = 60.0  # seconds, for processes that start together on a busy machine
FAILPOINTS = ROOT / "tests" / "support" / "failpoints"
WEBHOOK_SECRET = "whsec_Q2FuYXJ5U2VjcmV0Rm9yV2ViaG9va3MhIQ=="
PASSWORD = "CanaryPassword7"
QUEUES = f"{effects.QUEUE},webhooks"


class Cluster:
    """One service on one database and one virtual host.

    `env` may be changed before a process starts: `cluster.env["ACCEPTED_LEASE_TTL"] = "2"`. `api_env` and
    `inner_env` (workers and scheduler) come on top, for a proxy on one side only, then `env` of a single call.
    """

    def __init__(self, start_service: StartService, database_url: str, broker_url: str, directory: Path) -> None:
        self._start_service = start_service
        self._directory = directory
        self.journal = directory / "effects"
        self.port = free_port()
        self.env = {
            "ACCEPTED_DATABASE_URL": with_password(database_url),
            "ACCEPTED_BROKER_URL": broker_url,
            "ACCEPTED_AUTH": "off",
            "ACCEPTED_EGRESS_ALLOW": "127.0.0.0/8",
            "ACCEPTED_HANDLERS": "accepted_worker.handlers,tests.faults.effects",
            "ACCEPTED_LEASE_TTL": "3",
            "ACCEPTED_SHUTDOWN_GRACE": "10",
            "ACCEPTED_WEBHOOK_SECRET": WEBHOOK_SECRET,
            effects.JOURNAL: str(self.journal),
        }
        self.api_env: dict[str, str] = {}
        self.inner_env: dict[str, str] = {}
        self.apis: list[Service] = []
        self.schedulers: list[Service] = []
        self.workers: list[Service] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> Service:
        return self.apis[0]

    @property
    def scheduler(self) -> Service:
        return self.schedulers[0]

    @property
    def services(self) -> list[Service]:
        return [*self.apis, *self.schedulers, *self.workers]

    async def start(self, *, workers: int = 2, concurrency: int = 10, schedulers: int = 1) -> "Cluster":
        """Start everything at once and wait until all of it is ready."""
        await asyncio.gather(
            self.add_api(self.port),
            *(self.add_scheduler() for _ in range(schedulers)),
            *(self.add_worker(concurrency) for _ in range(workers)),
        )
        return self

    async def add_api(self, port: int, env: Mapping[str, str] | None = None) -> Service:
        api = self._start("api", "--port", str(port), extra={**self.api_env, **(env or {})})
        self.apis.append(api)
        return await api.wait_ready(answers(f"http://127.0.0.1:{port}/readyz"), READY_WITHIN)

    async def add_scheduler(self, env: Mapping[str, str] | None = None) -> Service:
        scheduler = self._start("scheduler", extra={**self.inner_env, **(env or {})})
        self.schedulers.append(scheduler)
        return await scheduler.wait_ready(logged("scheduler_ready"), READY_WITHIN)

    async def add_worker(
        self, concurrency: int = 10, queues: str = QUEUES, env: Mapping[str, str] | None = None
    ) -> Service:
        options = ("--queues", queues, "--concurrency", str(concurrency))
        worker = self._start("worker", *options, extra={**self.inner_env, **(env or {})})
        self.workers.append(worker)
        return await worker.wait_ready(logged("worker_ready"), READY_WITHIN)

    def run(self, *arguments: str) -> Service:
        """Any other command, as a process that can be killed."""
        return self._start(*arguments, extra={})

    async def restart_worker(self, worker: Service) -> None:
        """Start one that has ended, and wait until it is ready: before that it cannot even stop cleanly."""
        before = worker.log(10_000).count("worker_ready")
        worker.start()
        await worker.wait_ready(lambda one: one.log(10_000).count("worker_ready") > before, READY_WITHIN)

    async def api_ready(self) -> None:
        await self.api.wait_ready(answers(f"{self.url}/readyz"), READY_WITHIN)

    def failpoint(self, name: str) -> "Failpoint":
        return Failpoint(name, self._directory)

    def _start(self, *arguments: str, extra: Mapping[str, str]) -> Service:
        return self._start_service(*arguments, env={**self.env, **extra})


class Failpoint:
    """One point of tests/support/failpoints for one process: `env` makes it die there, once, or wait there."""

    def __init__(self, name: str, directory: Path) -> None:
        self._reached = directory / "failpoint-reached"
        self._go_on = directory / "failpoint-go-on"
        self.env = {**misled(), "FAILPOINT": name, "FAILPOINT_FILE": str(self._reached)}
        self.waiting_env = {**self.env, "FAILPOINT_WAIT": str(self._go_on)}

    @property
    def reached(self) -> bool:
        return self._reached.exists()

    def go_on(self) -> None:
        self._go_on.touch()


def misled(**variables: str) -> dict[str, str]:
    """The environment of a process with the named variables of tests/support/failpoints."""
    return {"PYTHONPATH": f"{FAILPOINTS}:{SOURCES}", **variables}


def with_password(database_url: str) -> str:
    """The same database; its server trusts everybody, so the password is only there to be found in a log."""
    return database_url.replace("postgres@", f"postgres:{PASSWORD}@", 1)
