"""`Client` and `AsyncClient` behind one shape, so that a test says once what holds for both."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from accepted import AsyncClient, Client


class EitherClient:
    """`await client(lambda it: it.get(id))` calls it, `await client.all(lambda it: it.jobs())` iterates to the end."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client
        self._blocks = isinstance(client, Client)

    async def __call__(self, operation: Callable[[Any], Any]) -> Any:
        return await (asyncio.to_thread(operation, self.client) if self._blocks else operation(self.client))

    async def all(self, iteration: Callable[[Any], Any]) -> list[Any]:
        if self._blocks:
            return await asyncio.to_thread(lambda: list(iteration(self.client)))
        return [one async for one in iteration(self.client)]


@asynccontextmanager
async def either(blocks: bool, *arguments: Any, **options: Any) -> AsyncIterator[EitherClient]:
    if blocks:
        with await asyncio.to_thread(Client, *arguments, **options) as client:
            yield EitherClient(client)
    else:
        async with AsyncClient(*arguments, **options) as loop_client:
            yield EitherClient(loop_client)
