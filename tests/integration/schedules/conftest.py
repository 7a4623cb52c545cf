"""What the tests of schedules share. Their cron line fires every minute, by the clock of this machine."""

import time

import pytest

from tests.support.waiting import until

LATE_IN_THE_MINUTE = 50.0
"""Seconds. A test takes one or two, and up to ten on a busy machine."""


@pytest.fixture(autouse=True)
async def early_in_the_minute() -> None:
    """A minute that begins in the middle of a test would make one more time due."""
    await until(lambda: time.time() % 60 < LATE_IN_THE_MINUTE, 15, "the next minute")
