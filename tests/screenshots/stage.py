"""A service in the middle of its work, as the screenshots show it: busy, with a few things that are wrong."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from accepted.domain.monitoring.statistics import WAITS, wait_column
from accepted.storage.db.engine import create_engine
from tests.support.clients.client import Client
from tests.support.ledger.sql import do, rows
from tests.support.servers.postgres import PostgresServer
from tests.support.service.processes import run
from tests.support.service.running_service import serving, types_known
from tests.support.waiting import until

MINUTES = 24 * 60
"""Of statistics."""

NOBODY_LISTENS = "http://127.0.0.1:1/orders"

COUNTED = "SELECT count(*) AS n FROM statistics s JOIN statistic_series x ON x.id = s.series WHERE x.tenant <> ''"


class Stage(NamedTuple):
    url: str
    job_id: str
    """A job that has failed, with attempts, a log and webhooks."""
    workflow_id: str
    """A workflow that is under way."""


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    server = PostgresServer.in_memory()
    try:
        server.start()
        url = server.create_database("screenshots")
        run("migrate", env={"ACCEPTED_DATABASE_URL": url})
        handlers = "accepted_worker.handlers,accepted_worker.handlers.sleep,tests.support.handlers.talking"
        env = {"ACCEPTED_AUTH": "off", "ACCEPTED_HANDLERS": handlers}
        async with serving(url, env, slots=8) as running:
            client = running.client()
            await types_known(client)
            job_id = await _submit(client)
            workflow_id = await _schedule(client)
            await _fill_statistics(url)
            yield Stage(running.url, job_id, workflow_id)
    finally:
        server.remove()


async def _submit(client: Client) -> str:
    """Jobs in every state; the id of the one to look at closely."""
    for queue, jobs in (("emails", 14), ("reports", 9), ("invoices", 6)):
        await asyncio.gather(*(client.finish("noop", {"number": n}, queue=queue) for n in range(jobs)))
    call = {"url": "http://127.0.0.1:2/orders", "method": "POST", "json": {"order": 10441, "customer": "C-2093"}}
    closely = await client.submit(
        "http.request", call, queue="calls", tags=["orders", "nightly"], metadata={"customer": "C-2093"},
        callback_url="http://127.0.0.1:3/hooks", retry={"max_attempts": 4, "schedule": [0, 1, 2], "jitter": 0},
    )  # fmt: skip
    await client.finished(closely["id"])
    for n in range(7):
        await client.submit("http.request", {"url": f"{NOBODY_LISTENS}/{n}"}, queue="calls", retry={"max_attempts": 1})
    for n in range(12):
        await client.submit("http.request", {"url": f"{NOBODY_LISTENS}/{n}"}, queue="calls")
        await client.submit("noop", {"number": n}, queue="reports", delay=600 + n * 60)
    await client.http.patch("/queues/invoices", json={"paused": True})
    for n in range(40):
        await client.submit("noop", {"number": n}, queue="invoices")
    for _ in range(5):
        await client.submit("sleep", {"seconds": 900}, queue="reports")
    return str(closely["id"])


async def _schedule(client: Client) -> str:
    """Schedules, and the id of a workflow that is under way."""
    for name, cron, zone in (
        ("invoices-monthly", "0 6 1 * *", "UTC"), ("report-nightly", "30 2 * * *", "Europe/Berlin"),
        ("sync-customers", "*/15 * * * *", "UTC"),
    ):  # fmt: skip
        job = {"type": "noop", "queue": "reports"}
        await client.http.put(f"/schedules/{name}", json={"cron": cron, "timezone": zone, "job": job})
        await client.http.post(f"/schedules/{name}/trigger")
    needs = {
        "extract": [],
        "check": ["extract"],
        "load-eu": ["check"],
        "load-us": ["check"],
        "report": ["load-eu", "load-us"],
    }
    slow = {"type": "sleep", "payload": {"seconds": 900}}
    jobs = [
        (slow if ref == "load-us" else {"type": "noop"}) | {"ref": ref, "depends_on": after, "queue": "emails"}
        for ref, after in needs.items()
    ]
    made = (await client.http.post("/workflows", json={"jobs": jobs})).json()

    async def under_way() -> bool:
        found = (await client.get(f"/batches/{made['id']}")).json()
        return bool(found["counts"].get("succeeded") == 3)

    await until(under_way, 30, "three jobs of the workflow")
    return str(made["id"])


async def _fill_statistics(url: str) -> None:
    """A day of them, with a slow hour, behind those that the service has counted."""
    engine = create_engine(url)
    try:

        async def counted() -> bool:
            return bool((await rows(engine, COUNTED))[0]["n"])

        await until(counted, 30, "the first statistics", interval=0.5)
        columns = ", ".join(WAITS)
        for minute in range(1, MINUTES):
            wave = 60 + 25 * math.sin(minute / 180) + 9 * math.sin(minute / 7)
            slow = 25 <= minute <= 45
            wait = wait_column(40.0 if slow else 0.05 + 0.04 * math.sin(minute / 11))
            waits = ", ".join(str(int(wave) if name == wait else 0) for name in WAITS)
            await do(
                engine,
                f"INSERT INTO statistics (series, span, at, accepted, started, succeeded, failed_transient, depth, "
                f"{columns}) SELECT id, 60, date_bin('60 seconds', now() - :m * interval '1 minute', 'epoch'), :a, :s, "
                f":s, :f, :d, {waits} FROM statistic_series WHERE queue = '' ON CONFLICT DO NOTHING",
                m=minute, a=int(wave), s=int(wave * (0.7 if slow else 1.0)), f=int(wave / 40) + 6 * (minute % 97 < 4),
                d=int(600 - abs(35 - minute) * 40) if slow else int(wave / 9),
            )  # fmt: skip
    finally:
        await engine.dispose()
