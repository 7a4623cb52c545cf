"""What a handler waits for from the ledger is worth waiting for, as long as its attempt has time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

import structlog

from accepted.errors import LedgerUnavailable

AGAIN = 0.5
"""Seconds before a ledger that did not answer is asked again. The attempt's own timeout is the end of it."""

Value = TypeVar("Value")

log = structlog.get_logger(__name__)


async def until_answered(work: Callable[[], Awaitable[Value]], job_id: UUID) -> Value:
    """What `work` comes to, once the ledger is there."""
    while True:
        try:
            return await work()
        except LedgerUnavailable as error:
            log.warning("handler_waits_for_ledger", job_id=str(job_id), error=str(error))
            await asyncio.sleep(AGAIN)
