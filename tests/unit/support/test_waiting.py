"""Waiting returns what it waited for, or says what did not come."""

import asyncio

import pytest

from tests.support.waiting import until


async def test_returns_the_first_truthy_answer() -> None:
    answers = iter([None, 0, "there"])
    assert await until(lambda: next(answers)) == "there"


async def test_takes_an_async_predicate() -> None:
    async def later() -> bool:
        await asyncio.sleep(0)
        return True

    assert await until(later)


async def test_fails_with_what_was_waited_for_and_the_last_answer() -> None:
    with pytest.raises(AssertionError, match=r"not within 0.05 s: the moon \(last answer: 0\)"):
        await until(lambda: 0, timeout=0.05, what="the moon")


async def test_asks_for_the_state_of_things_only_at_the_end() -> None:
    with pytest.raises(AssertionError, match="state: 3"):
        await until(lambda: False, timeout=0.05, what=lambda: f"state: {1 + 2}")
