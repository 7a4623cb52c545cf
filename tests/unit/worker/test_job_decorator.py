"""`@job`: what it refuses and what it registers."""

import json
import math
from collections.abc import Callable
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


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan, 0, -1, True, "60", None, 1e9])
def test_a_timeout_is_a_number_of_seconds(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        job("one", timeout=seconds)


def test_a_payload_without_a_schema_is_refused_by_the_name_of_its_type() -> None:
    class Calls(BaseModel):
        back: Callable[[], None]

    with pytest.raises(ConfigurationError, match=r"'call\.me': there is no JSON Schema"):

        @job("call.me")
        def call_me(payload: Calls, ctx: Context) -> None: ...


def test_a_description_can_be_stored() -> None:
    @job("odd", description="a\0b" + "x" * 1000)
    def odd(payload: Thumbnail, ctx: Context) -> None: ...

    handler: Handler = odd.__dict__[MARK]
    assert handler.type.description.startswith("a\ufffdb")
    assert len(handler.type.description) == 500
