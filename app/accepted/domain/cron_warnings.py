"""What a change of the clock does to a cron line, in words for the one who writes it."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta

from accepted.domain.cron import CronLine

A_YEAR = timedelta(days=365)

MOST = 20
"""Warnings of one line."""

MOST_NAMED = 4
"""Local times of a day that are named one by one; of more, the first and the last."""

ELAPSED = "a line whose minutes or hours begin with * follows the time that passes"


def warnings(line: CronLine, after: datetime, shown: list[datetime]) -> list[str]:
    """The local times that are skipped or come twice in the year after `after`, and in what is `shown` beyond it."""
    until = max([after + A_YEAR, *shown])
    found: list[str] = []
    for day in line.days_of_change(after.astimezone(line.zone).date(), until.astimezone(line.zone).date()):
        found += _of_day(line, day)
        if len(found) >= MOST:
            break
    return found[:MOST]


def _of_day(line: CronLine, day: date) -> Iterator[str]:
    asked = line.local_times(day)
    skipped = [local for local in asked if not line.moments_of(local)]
    doubled = [local for local in asked if len(line.moments_of(local)) > 1]
    on = f"{day}: the clock in {line.zone.key}"
    if skipped:
        instead = f"once, right after the gap, at {_after(line, skipped)}" if line.fixed else f"not at all: {ELAPSED}"
        yield f"{on} skips {_named(skipped)}; it runs {instead}"
    if doubled:
        times = "the first time only" if line.fixed else f"both times: {ELAPSED}"
        yield f"{on} shows {_named(doubled)} twice; it runs {times}"


def _after(line: CronLine, skipped: list[datetime]) -> str:
    return f"{line.once(skipped[-1]).astimezone(line.zone):%H:%M}"


def _named(times: list[datetime]) -> str:
    if len(times) > MOST_NAMED:
        return f"{times[0]:%H:%M} to {times[-1]:%H:%M} ({len(times)} times)"
    return ", ".join(f"{one:%H:%M}" for one in times)
