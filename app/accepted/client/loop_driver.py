"""The driver for an event loop: it does what steps say, one after the other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from typing import Any

from accepted.client.connection import Connection, answer_of
from accepted.client.steps import ApiAnswer, ApiRequest, Done, Found, NextLine, Pause, Step, Steps, T, advance


class LoopDriver:
    """As `BlockingDriver`, for `async` code."""

    def __init__(self, connection: Connection) -> None:
        import httpx

        self.connection = connection
        self.limits = connection.limits
        self.http = httpx.AsyncClient(headers=connection.headers(), verify=connection.encrypted)
        self._failures = (httpx.HTTPError, httpx.InvalidURL, ValueError)

    async def run(self, steps: Steps[T]) -> T:
        """What the steps come to."""
        with closing(steps):
            async with AsyncExitStack() as streams:
                step = advance(steps, None)
                while not isinstance(step, Done):
                    step = advance(steps, await self._do(step, streams))
                return step.value

    async def each(self, steps: Steps[None]) -> AsyncIterator[Any]:
        """What the steps find."""
        with closing(steps):
            async with AsyncExitStack() as streams:
                step = advance(steps, None)
                while not isinstance(step, Done):
                    if isinstance(step, Found):
                        yield step.value
                    step = advance(steps, await self._do(step, streams))

    async def _do(self, step: Step, streams: AsyncExitStack) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Found):
            return None
        try:
            if isinstance(step, NextLine):
                return await anext(step.lines, None)
            return await self._send(step, streams)
        except self._failures as error:
            return self.connection.failure(error)

    async def _send(self, request: ApiRequest, streams: AsyncExitStack) -> ApiAnswer:
        await streams.aclose()
        built = self.http.build_request(**self.connection.arguments(request))
        response = await self.http.send(built, stream=request.stream)
        streams.push_async_callback(response.aclose)
        if request.stream and response.status_code == 200:
            return answer_of(response, response.aiter_lines())
        await response.aread()
        return answer_of(response)
