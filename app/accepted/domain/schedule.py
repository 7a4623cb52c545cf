"""Schedules: which of their times are due, and what happens to each. Pure: the caller passes the ledger's time."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache

import msgspec

from accepted.domain.cron import CronLine
from accepted.domain.zones import zone

GRACE = timedelta(seconds=15)
"""A time that a scheduler reaches later than this is missed. A restart or a busy machine takes less."""

MAX_MISSED = 1000
"""The newest missed times of a schedule that may still run; older ones are always skipped, because an outage of weeks
must not end in a flood of jobs."""


class OnMissed(StrEnum):
    """What happens to times at which no scheduler ran."""

    SKIP = "skip"
    RUN_ONCE = "run_once"
    RUN_ALL = "run_all"


class Overlap(StrEnum):
    """What happens at a time when the job of an earlier time has not finished."""

    ALLOW = "allow"
    SKIP = "skip"


class Outcome(StrEnum):
    """What happened at one time of a schedule."""

    FIRED = "fired"  # its job was submitted
    TRIGGERED = "triggered"  # its job was submitted because a client asked for it
    SKIPPED = "skipped"
    FAILED = "failed"  # its job would not be accepted now


MISSED = "missed"
OVERLAP = "the job of an earlier run has not finished"
UNIQUE = "a job with its unique key is there"


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A stored schedule. `job` is JSON text; `spread_over` is in seconds. Without `next_at` it does not fire."""

    tenant: str
    name: str
    cron: str
    timezone: str
    job: str
    on_missed: str
    overlap: str
    spread_over: float
    enabled: bool
    next_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def line(self) -> CronLine:
        """Raises `ValueError` if this release does not know the line or the zone."""
        return cron_line(self.cron, self.timezone)


class Plan(msgspec.Struct, frozen=True):
    """Times to run now, times to skip, and the next time."""

    run: list[datetime]
    skip: list[datetime]
    next_at: datetime | None


@lru_cache(maxsize=512)
def cron_line(cron: str, timezone: str) -> CronLine:
    """Raises `CronError` or `UnknownZone`."""
    return CronLine(cron, zone(timezone))


def plan(line: CronLine, next_at: datetime, on_missed: str, now: datetime) -> Plan:
    """What to do about `next_at`, which has come, and the times that have come since.

    Of more than `MAX_MISSED` times the oldest are skipped first, in several rounds.
    """
    due, following = _due(line, next_at, now)
    if len(due) > MAX_MISSED:
        rest = len(due) - MAX_MISSED
        return Plan([], due[:rest], due[rest])
    run = _to_run(due, on_missed, now)
    return Plan(run, [one for one in due if one not in run], following)


def smeared(tenant: str, name: str, scheduled_at: datetime, spread_over: float) -> datetime:
    """When the job of `scheduled_at` runs: a fixed moment within `spread_over` seconds, different for each schedule."""
    seed = f"{tenant}\0{name}\0{scheduled_at.timestamp():.0f}".encode()
    share = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest()) / 2**64
    return scheduled_at + timedelta(seconds=spread_over * share)


def _due(line: CronLine, next_at: datetime, now: datetime) -> tuple[list[datetime], datetime | None]:
    """The times that have come, at most 2 * `MAX_MISSED` of them, and the next one."""
    due = [next_at]
    for moment in line.runs(next_at):
        if moment > now or len(due) == 2 * MAX_MISSED:
            return due, moment
        due.append(moment)
    return due, None


def _to_run(due: Sequence[datetime], on_missed: str, now: datetime) -> list[datetime]:
    if on_missed == OnMissed.RUN_ALL:
        return list(due)
    if on_missed == OnMissed.RUN_ONCE:
        return [due[-1]]
    return [one for one in due if now - one <= GRACE]
