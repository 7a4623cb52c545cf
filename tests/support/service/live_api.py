"""The real application behind a real socket, in the test's own process and event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn

from accepted.api.app import create_app
from accepted.api.http.server import config
from accepted.api.state import State
from accepted.services import keys
from accepted.settings import Settings
from tests.support.clients.client import Client
from tests.support.waiting import until

EVERY_SCOPE = ["jobs:read", "jobs:write", "jobs:work", "admin"]


@dataclass(frozen=True)
class Api:
    url: str
    state: State
    server: uvicorn.Server

    async def client(self, tenant: str = "acme", scopes: list[str] = EVERY_SCOPE, name: str = "tests") -> Client:
        """A caller with a key of its own."""
        return Client(self.url, (await keys.create(self.state.engine, tenant, name, scopes))[1])

    def stop(self) -> None:
        """What SIGTERM does."""
        self.state.watcher.close()
        self.state.lease_waiters.close()
        self.server.should_exit = True


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They stay the test's."""
        yield


@asynccontextmanager
async def api(database_url: str, broker_url: str = "postgres", **settings: object) -> AsyncIterator[Api]:
    """One API process, so to speak: `async with api(url, lease_ttl=2) as one`."""
    chosen = Settings(database_url=database_url, broker_url=broker_url, **settings)  # type: ignore[arg-type]
    app = create_app(chosen)
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(config(app, chosen, "127.0.0.1", 0))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started, 20, "the API")
        yield Api(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.accepted, server)
    finally:
        server.should_exit = True
        await running
        listener.close()
