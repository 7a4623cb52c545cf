"""The HTTP API in the test's own process, on the test's own ledger, and rows that other parts of the service write."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.api.app import create_app
from accepted.api.state import State
from accepted.domain.ids import new_id
from accepted.domain.tenants import SCOPES
from accepted.services.keys import create
from accepted.settings import Settings
from accepted.storage import tenants
from accepted.storage.db.engine import transaction
from tests.support.clients.client import Client, check_answer
from tests.support.ledger.sql import do
from tests.support.service.in_process_worker import registered

HOUR = 3600.0


class HttpApp:
    """One API process; `client(tenant)` makes a client with a key of that tenant."""

    def __init__(self, app: Any, engine: AsyncEngine) -> None:
        self.application = app
        self.state: State = app.state.accepted
        self.engine = engine

    async def client(self, tenant: str = "t", *scopes: str) -> Client:
        _, key = await create(self.engine, tenant, "tests", list(scopes or SCOPES))
        client = Client("http://api", key)
        client.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.application),
            base_url="http://api",
            headers={"authorization": f"Bearer {key}"},
            event_hooks={"response": [check_answer]},
        )
        return client


@asynccontextmanager
async def http_app(engine: AsyncEngine, url: str, **settings: Any) -> AsyncIterator[HttpApp]:
    """Its background loops do not run: a test says when they look."""
    await registered(engine)
    app = HttpApp(create_app(Settings(database_url=url, **settings)), engine)
    try:
        yield app
    finally:
        await app.state.submissions.close()
        await app.state.engine.dispose()


async def a_worker(
    engine: AsyncEngine, *, slots: int = 2, queues: list[str] | None = None, types: list[str] | None = None
) -> UUID:
    """A live worker, as its heartbeat writes it."""
    id = new_id()
    await do(
        engine,
        "INSERT INTO workers (id, name, slots, queues, types) VALUES (:id, 'w1', :slots, :queues, :types)",
        id=id, slots=slots, queues=queues, types=types,
    )  # fmt: skip
    return id


async def measured(engine: AsyncEngine, runs: int, seconds: float) -> None:
    """So many attempts ended on the queue, each after so long, in the 100 s between two looks."""
    for at, ended in ((105, 0), (55, runs), (5, 0)):
        await do(
            engine,
            "INSERT INTO queue_samples (queue, at, runs, seconds) VALUES "
            "('', now() - :at * interval '1 second', 0, 0), ('q', now() - :at * interval '1 second', :n, :s)",
            at=at, n=ended, s=ended * seconds,
        )  # fmt: skip


async def depends(engine: AsyncEngine, waiting: Any, needed: Any, on_success: bool) -> None:
    """`waiting` waits for `needed`, as a workflow or an ordering key writes it."""
    ids = {"needs": UUID(needed["id"]), "id": UUID(waiting["id"])}
    await do(engine, "INSERT INTO dependencies VALUES (:needs, :id, :s)", **ids, s=on_success)
    await do(engine, "UPDATE jobs SET status = 'blocked', blockers = 1 WHERE id = :id", id=ids["id"])
    held = "UPDATE outbox SET on_hold = true, published = false, due_at = 'infinity' WHERE job_id = :id"
    await do(engine, held, id=ids["id"])


async def allow(app: HttpApp, jobs: int, per: float = HOUR, tenant: str = "t") -> None:
    async with transaction(app.engine) as conn:
        await tenants.put_quota(conn, tenant, jobs, per)
        await conn.commit()
    await app.state.limits.refresh()


def statuses(answers: list[httpx.Response]) -> dict[int, int]:
    found = [answer.status_code for answer in answers]
    return {status: found.count(status) for status in found}
