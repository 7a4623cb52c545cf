"""`@job`: what it refuses and what it registers."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from accepted import Context, Retry, job
from accepted.errors import ConfigurationError
from accepted.handler import MARK, Handler


class Thumbnail(BaseModel):
    url: str


@pytest.mark.parametrize("name", ["", "with space", "é", "x" * 101, "-a", "a\n"])
def test_a_type_name_must_travel_as_a_short_string(name: str) -> None:
    with pytest.raises(ConfigurationError):
        job(name)


def test_a_queue_name_follows_the_contract() -> None:
    with pytest.raises(ConfigurationError):
        job("fine", queue="Not Fine")


def test_a_handler_takes_a_payload_and_a_context() -> None:
    with pytest.raises(ConfigurationError, match="payload, ctx"):

        @job("one")
        def one(payload: Thumbnail) -> None: ...


def test_what_is_registered() -> None:
    @job("thumbnail.make", queue="images", timeout=60, retry=Retry(max_attempts=3, schedule=(5, 30)))
    def make(payload: Thumbnail, ctx: Context) -> dict[str, Any]:
        """Makes a thumbnail.

        With more to say.
        """
        return {}

    handler: Handler = make.__dict__[MARK]
    assert not handler.is_async
    kind = handler.type
    assert (kind.name, kind.queue, kind.timeout, kind.retry.max_attempts) == ("thumbnail.make", "images", 60, 3)
    assert kind.description == "Makes a thumbnail."
    assert json.loads(kind.payload_schema)["required"] == ["url"]


def test_which_handlers_are_interruptible() -> None:
    @job("a.thread")
    def in_a_thread(payload: Thumbnail, ctx: Context) -> None: ...

    @job("a.process", runs_in="process")
    def in_a_process(payload: Thumbnail, ctx: Context) -> None: ...

    @job("a.coroutine")
    async def on_the_loop(payload: Thumbnail, ctx: Context) -> None: ...

    handlers: list[Handler] = [each.__dict__[MARK] for each in (in_a_thread, in_a_process, on_the_loop)]
    assert [handler.interruptible for handler in handlers] == [False, True, True]
    assert [handler.in_process for handler in handlers] == [False, True, False]


def test_runs_in_is_process_or_left_out() -> None:
    with pytest.raises(ConfigurationError, match="runs_in"):
        job("one", runs_in="thread")  # type: ignore[arg-type]
