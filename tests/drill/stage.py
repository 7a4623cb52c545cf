"""The service that is drilled: its processes on a ledger and a broker behind proxies, and what it says is wrong."""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.clients.client import Client, Job
from tests.support.clients.plain_browser import PlainBrowser
from tests.support.servers.ports import free_port
from tests.support.servers.proxy import Proxy
from tests.support.service.processes import Service, answers
from tests.support.service.running_service import BOOT_WITHIN, types_known
from tests.support.waiting import until

NAMED_WITHIN = 10.0
"""Seconds from a fault to the first answer that names its cause."""

OVERVIEW = "Overview"
"""The page that names what `GET /status` names."""

RUNBOOK = "Runbook"
"""The link to what to do where no page can do it."""

QUEUES = "main,harm,deeds,paused,limited,calling"
"""The queues of the worker. No worker serves another one."""

ENV = {
    "ACCEPTED_AUTH": "off",
    "ACCEPTED_EGRESS_ALLOW": "127.0.0.0/8",
    "ACCEPTED_HANDLERS": (
        "accepted_worker.handlers,tests.support.handlers.misbehaving,tests.support.handlers.process_handlers"
    ),
    "ACCEPTED_LEASE_TTL": "3",
}


@dataclass(frozen=True)
class Named:
    """Who named a cause, by which code, in which sentence, and how many seconds after the fault."""

    by: str
    code: str
    sentence: str
    after: float


@dataclass
class Stage:
    """A service in which nothing is wrong, until somebody breaks something."""

    url: str
    client: Client
    scheduler: Service
    ledger: Proxy
    broker: Proxy
    engine: AsyncEngine
    metrics_ports: tuple[int, ...]

    async def series(self) -> set[str]:
        """The names of the metrics that the processes show."""
        found: set[str] = set()
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            for port in self.metrics_ports:
                shown = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
                found |= set(re.findall(r"^# TYPE (\w+) ", shown, re.MULTILINE))
        return found

    async def problems(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.client.get("/status")).json()["problems"]
        return found

    async def named(self, kind: str, began: float, **about: Any) -> Named:
        """Wait until `GET /status` has a problem of this kind, about this."""

        async def said() -> Named | None:
            for sentence in await self._sentences(kind, about):
                return Named("GET /status", kind, sentence, time.monotonic() - began)
            return None

        return await until(said, BOOT_WITHIN, f"GET /status to name {kind} {about}", interval=0.2)

    async def led(self, kind: str, began: float, act: str, **about: Any) -> tuple[Named, PlainBrowser]:
        """Wait until the overview says it in the same sentence, and follow its link to the page with the `act`."""
        person = PlainBrowser(self.url)

        async def shown() -> dict[str, str] | None:
            known = [shape(one) for one in await self._sentences(kind, about)]
            items = (await person.look("/")).items
            return next((links for text, links in items if any(one in shape(text) for one in known)), None)

        links = await until(shown, BOOT_WITHIN, f"the overview to name {kind} {about}", interval=0.2)
        after, path = time.monotonic() - began, links[RUNBOOK if act == RUNBOOK else "Look and act"]
        page = await person.look(path)
        assert "#" not in path or path.partition("#")[2] in page.ids, path
        return Named(OVERVIEW, kind, f"Its link leads to `{path}`: {act}.", after), person

    async def _sentences(self, kind: str, about: dict[str, Any]) -> list[str]:
        """Those of the problems of this kind, about this."""
        return [
            str(one["sentence"])
            for one in await self.problems()
            if one["kind"] == kind and about.items() <= one.items()
        ]

    async def explained(self, job: Job, reason: str | None, began: float, about: str = "") -> Named:
        """Wait until `GET /jobs/{id}/explain` gives this reason (None: any), and mentions `about`."""

        async def explains() -> Named | None:
            found = (await self.client.get(f"/jobs/{job['id']}/explain")).json()
            if found["reason"] != (reason or found["reason"]) or about not in str(found):
                return None
            last = "" if about in found["detail"] else f" {found['last_error']['message']}"
            return Named("explain", found["reason"], f"{found['detail']}{last}", time.monotonic() - began)

        return await until(explains, BOOT_WITHIN, f"explain to say {reason} {about}", interval=0.2)

    async def until_healthy(self) -> None:
        """Wait until nothing is wrong any more."""
        await until(self._healthy, BOOT_WITHIN, "nothing to be wrong", interval=0.5)

    async def _healthy(self) -> bool:
        return not await self.problems()


_TIMES = re.compile(r"\d{4}-\d\d-\d\d(?:T[0-9:.]+Z| [0-9:]+ UTC)|\d\d:\d\d:\d\d UTC")
"""As the API writes them, and as pages do."""


def shape(text: str) -> str:
    """A text without what changes while it is read (numbers, times), and without the marks of code."""
    return " ".join(re.sub(r"\d+", "0", _TIMES.sub("0", text.replace("`", ""))).split())


@asynccontextmanager
async def staged(database_url: str, amqp_url: str, engine: AsyncEngine) -> AsyncIterator[Stage]:
    """The API reaches the ledger through a proxy, and all reach the broker through one."""
    async with Proxy(database_url) as ledger, Proxy(amqp_url) as broker:
        port = free_port()
        env = {**ENV, "ACCEPTED_DATABASE_URL": database_url, "ACCEPTED_BROKER_URL": broker.url_for(amqp_url)}
        ports = free_port(), free_port(), free_port()
        of_api, of_scheduler, of_worker = ({**env, "ACCEPTED_METRICS_PORT": str(each)} for each in ports)
        of_api["ACCEPTED_DATABASE_URL"] = ledger.url_for(database_url)
        api = Service("api", "--port", str(port), env=of_api)
        scheduler, worker = Service("scheduler", env=of_scheduler), Service("worker", "--queues", QUEUES, env=of_worker)
        url = f"http://127.0.0.1:{port}"
        client = Client(url)
        stage = Stage(url, client, scheduler, ledger, broker, engine, ports)
        try:
            for service in (api, scheduler, worker):
                service.start()
            await api.wait_ready(answers(f"{url}/readyz"), BOOT_WITHIN)
            await types_known(client)
            await stage.until_healthy()
            yield stage
        finally:
            for service in (api, scheduler, worker):
                service.remove()
