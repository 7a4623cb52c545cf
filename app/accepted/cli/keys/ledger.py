"""What commands do in the ledger itself, past the HTTP API."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Answer = TypeVar("Answer")


def with_ledger(work: "Callable[[AsyncEngine], Awaitable[Answer]]") -> Answer:
    """Do it with the ledger, if its schema is what this version needs, or newer."""
    from accepted.services.monitoring import audit
    from accepted.settings import load
    from accepted.storage.db import migrate

    async def checked(engine: "AsyncEngine") -> Answer:
        await migrate.check(engine)
        audit.act_on_ledger()
        return await work(engine)

    return on_ledger(load().require_database(), checked)


def on_ledger(url: str, work: "Callable[[AsyncEngine], Awaitable[Answer]]") -> Answer:
    """What `work` returns, with an engine for the ledger at `url`."""
    import uvloop

    from accepted.storage.db.engine import create_engine

    async def run() -> Answer:
        engine = create_engine(url, pool_size=1)
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    return uvloop.run(run())
