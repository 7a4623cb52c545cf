"""The process `accepted forward`: its client, its start, and its end on SIGTERM or SIGINT."""

import asyncio
import signal

import httpx
import structlog

from accepted.client.connection import Connection
from accepted.forwarding.forwarder import BATCH_SIZE, SENT_WITHIN, Forwarder

log = structlog.get_logger(__name__)


async def run(database_url: str, url: str | None, api_key: str | None, key_lifetime: float) -> None:
    """Forward until the process is told to stop, then finish the batch. Raises `ClientError` for a URL or a key to
    which nothing can be sent."""
    service = Connection.to(url, api_key, SENT_WITHIN, 1, SENT_WITHIN)
    service.check()
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with httpx.AsyncClient(
        base_url=service.url,
        headers=service.headers(),
        limits=httpx.Limits(max_connections=BATCH_SIZE),
    ) as http:
        log.info("forward_ready", url=service.url)
        await Forwarder(database_url, http, key_lifetime).run(stopping)
        log.info("forward_stopping")
