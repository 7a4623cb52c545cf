"""Schedules: which of their times are due, and what becomes of each. Pure: the ledger's clock is given."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache, lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

import msgspec

from accepted.domain.cron import CronLine
from accepted.domain.text import did_you_mean

GRACE = timedelta(seconds=15)
"""A time further back than this when a scheduler comes to it was missed. Less is a restart, or a busy machine."""

MOST_MISSED = 1000
"""Times of one schedule that are caught up on; the older ones are skipped, whatever it asks for. An outage of weeks is
not to be answered by a flood."""


class UnknownZone(ValueError):
    """No IANA time zone has that name. The text may be shown."""


class OnMissed(StrEnum):
    """What becomes of the times at which no scheduler was there."""

    SKIP = "skip"
    RUN_ONCE = "run_once"
    RUN_ALL = "run_all"


class Overlap(StrEnum):
    """What becomes of a time at which the job of an earlier one has not finished."""

    ALLOW = "allow"
    SKIP = "skip"


class Outcome(StrEnum):
    """What became of one time of a schedule."""

    FIRED = "fired"  # its job is in the ledger
    TRIGGERED = "triggered"  # so is this one: somebody asked for it
    SKIPPED = "skipped"
    FAILED = "failed"  # its job is none that would be accepted now


MISSED = "missed"
OVERLAP = "the job of an earlier run has not finished"
UNIQUE = "a job with its unique key is there"


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as the ledger holds it. `job` is JSON text; `spread_over` in seconds. Without `next_at` it rests."""

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
        """Raises `ValueError` when the line or the zone is none that this release knows."""
        return cron_line(self.cron, self.timezone)


class Plan(msgspec.Struct, frozen=True):
    """What to do now: times to run, times to skip, and when to look again."""

    run: list[datetime]
    skip: list[datetime]
    next_at: datetime | None


@lru_cache(maxsize=512)
def cron_line(cron: str, timezone: str) -> CronLine:
    """Raises `CronError` or `UnknownZone`."""
    return CronLine(cron, zone(timezone))


def plan(line: CronLine, next_at: datetime, on_missed: str, now: datetime) -> Plan:
    """What to do about `next_at`, which has come, and whatever else has come since.

    More than `MOST_MISSED` times are worked through in several rounds, the oldest first, which are skipped.
    """
    due, following = _due(line, next_at, now)
    if len(due) > MOST_MISSED:
        rest = len(due) - MOST_MISSED
        return Plan([], due[:rest], due[rest])
    run = _to_run(due, on_missed, now)
    return Plan(run, [one for one in due if one not in run], following)


def smeared(tenant: str, name: str, scheduled_at: datetime, spread_over: float) -> datetime:
    """When the job of `scheduled_at` runs: always the same moment within `spread_over` seconds."""
    seed = f"{tenant}\0{name}\0{scheduled_at.timestamp():.0f}".encode()
    share = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest()) / 2**64
    return scheduled_at + timedelta(seconds=spread_over * share)


@cache
def zone(name: str) -> ZoneInfo:
    """The zone called `name`. Raises `UnknownZone`."""
    if name not in zone_names():
        raise UnknownZone(f"is no IANA time zone{did_you_mean(name, zone_names())}")
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


@cache
def zone_names() -> frozenset[str]:
    """Every name, links included."""
    return frozenset(files("tzdata").joinpath("zones").read_text().split())


def _due(line: CronLine, next_at: datetime, now: datetime) -> tuple[list[datetime], datetime | None]:
    """The times that have come, twice as many as are caught up on at most, and the one after them."""
    due = [next_at]
    for moment in line.runs(next_at):
        if moment > now or len(due) == 2 * MOST_MISSED:
            return due, moment
        due.append(moment)
    return due, None


def _to_run(due: Sequence[datetime], on_missed: str, now: datetime) -> list[datetime]:
    if on_missed == OnMissed.RUN_ALL:
        return list(due)
    if on_missed == OnMissed.RUN_ONCE:
        return [due[-1]]
    return [one for one in due if now - one <= GRACE]
