"""The reporter: dead letters that nobody was told of are told to the operator, and once a day how many there are."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.services import alerts

EVERY = 1.0
REPORT_POLL = 60.0
"""Seconds between checks whether the day is over."""


class Reporter:
    """Runs only where ACCEPTED_ALERT_URL is set: else nothing is marked as told."""

    name = "reporter"

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker
        self._next_report = 0.0

    async def run_once(self) -> int:
        told = await alerts.alert(self._engine, self._broker)
        now = asyncio.get_running_loop().time()
        if now >= self._next_report:
            told += await alerts.report(self._engine, self._broker)
            self._next_report = now + REPORT_POLL
        return told

    def pause(self, done: int) -> float:
        return EVERY
