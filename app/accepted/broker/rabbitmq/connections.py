"""Connections to RabbitMQ: plain ones, not the "robust" kind.

Whoever uses one notices that it is gone, drops it whole and opens the next, so there is one way to recover and
no half-restored state.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

import aio_pika
from aio_pika.abc import AbstractConnection

from accepted.errors import BrokerUnavailable

HEARTBEAT = 8
"""Seconds. A dead broker is noticed after at most three of them; below 5 s RabbitMQ warns of false alarms."""

CONNECT_TIMEOUT = 5.0

Failure = Exception
"""What a connection that is going, or gone, raises: aiormq fails what waits on one that was closed in good order with a
bare `Exception`, so nothing narrower catches it."""


class Connector:
    """Opens connections to the nodes of a cluster in turn."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = itertools.cycle(urls)
        self._tries = len(urls)

    async def open(self, name: str) -> AbstractConnection:
        """A connection to the first node that answers. Raises `BrokerUnavailable`."""
        for url in itertools.islice(self._urls, self._tries):
            with contextlib.suppress(Failure):
                return await aio_pika.connect(
                    url,
                    timeout=CONNECT_TIMEOUT,
                    heartbeat=HEARTBEAT,
                    client_properties={"connection_name": f"accepted {name}"},
                )
        raise BrokerUnavailable("no broker node answers")


async def close_quietly(connection: AbstractConnection) -> None:
    """Close a connection that may be broken in any way, within a second."""
    with contextlib.suppress(Failure):
        async with asyncio.timeout(1):
            await connection.close()
