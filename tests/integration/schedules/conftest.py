"""What the tests of schedules share. Their cron line fires every minute, by the clock of this machine."""

import time

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.waiting import until

EARLY, LATE = 2.0, 50.0
"""Seconds of a minute. `due` sets a time back by one second; a test takes one or two, up to ten on a busy machine."""


@pytest.fixture(autouse=True)
async def early_in_the_minute(engine: AsyncEngine) -> None:
    """A minute that began just before a test, or begins in the middle of it, would make one more time due."""
    await until(lambda: EARLY < time.time() % 60 < LATE, 15, "the next minute")
