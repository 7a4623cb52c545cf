"""The whole application in the test's process, over ASGI; worker and scheduler are the test's to start."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.api.app import create_app
from accepted.settings import Settings
from accepted.storage import job_types
from accepted.storage.db.engine import transaction
from tests.support.clients.client import check_answer
from tests.support.service.in_process_worker import HANDLERS


@asynccontextmanager
async def application(engine: AsyncEngine, url: str, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application without authentication, on a ledger that knows the built-in types."""
    async with transaction(engine) as conn:
        await job_types.register(conn, [handler.type for handler in HANDLERS.values()])
        await conn.commit()
    app = create_app(Settings(database_url=url, **{"auth": "off", **settings}))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://here", event_hooks={"response": [check_answer]}, timeout=60
    ) as client:
        yield client
    await app.state.accepted.submissions.close()
    await app.state.accepted.broker.close()
    await app.state.accepted.engine.dispose()
