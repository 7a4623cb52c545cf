"""What the tests of handlers call."""

import ssl
from collections.abc import AsyncIterator

import pytest

from tests.support.servers.scripted_receiver import OK, Receiver, Script, StartReceiver, replies


@pytest.fixture
async def receiver() -> AsyncIterator[StartReceiver]:
    """Starts receivers, which answer `OK` unless given a script, and stops them after the test."""
    started: list[Receiver] = []

    async def start(script: Script | None = None, context: ssl.SSLContext | None = None) -> Receiver:
        started.append(Receiver(script or replies(OK)))
        await started[-1].start(context)
        return started[-1]

    yield start
    for each in started:
        each.stop()
