"""The driver that blocks: it does what steps say, one after the other."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

from accepted.client.connection import Connection, answer_of
from accepted.client.steps import ApiAnswer, ApiRequest, Done, Found, NextLine, Pause, Step, Steps, T, advance


class BlockingDriver:
    """Does what steps say, one after the other."""

    def __init__(self, connection: Connection) -> None:
        import httpx

        self.connection = connection
        self.limits = connection.limits
        self.http = httpx.Client(headers=connection.headers(), verify=connection.encrypted)
        self._failures = (httpx.HTTPError, httpx.InvalidURL, ValueError)

    def run(self, steps: Steps[T]) -> T:
        """What the steps come to."""
        with closing(steps), ExitStack() as streams:
            step = advance(steps, None)
            while not isinstance(step, Done):
                step = advance(steps, self._do(step, streams))
            return step.value

    def each(self, steps: Steps[None]) -> Iterator[Any]:
        """What the steps find."""
        with closing(steps), ExitStack() as streams:
            step = advance(steps, None)
            while not isinstance(step, Done):
                if isinstance(step, Found):
                    yield step.value
                step = advance(steps, self._do(step, streams))

    def _do(self, step: Step, streams: ExitStack) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        if isinstance(step, Found):
            return None
        try:
            if isinstance(step, NextLine):
                return next(step.lines, None)
            return self._send(step, streams)
        except self._failures as error:
            return self.connection.failure(error)

    def _send(self, request: ApiRequest, streams: ExitStack) -> ApiAnswer:
        streams.close()
        response = self.http.send(self.http.build_request(**self.connection.arguments(request)), stream=request.stream)
        streams.callback(response.close)
        if request.stream and response.status_code == 200:
            return answer_of(response, response.iter_lines())
        response.read()
        return answer_of(response)
