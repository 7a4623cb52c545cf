"""The client, once as code that blocks and once on an event loop."""

from collections.abc import AsyncIterator, Mapping

import pytest

from tests.support.clients.client import Client
from tests.support.clients.either import EitherClient, either
from tests.support.service.running_service import Running


@pytest.fixture(params=["blocking", "loop"], scope="module")
async def it(
    request: pytest.FixtureRequest, trio: Running, keys: Mapping[str, str], client: Client
) -> AsyncIterator[EitherClient]:
    async with either(request.param == "blocking", trio.url, keys["hooks"]) as made:
        yield made
