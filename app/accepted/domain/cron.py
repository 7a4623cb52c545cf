"""Cron lines: five fields, in UTC or in a time zone whose clock changes twice a year.

The rules are Debian's (cron(8)). A line is **fixed** if neither its minutes nor its hours begin with `*`: each of its
local times happens once a day. A time that a clock change skips happens right after the gap; a time that comes twice
happens the first time. Other lines follow elapsed time: a skipped time does not happen, a repeated time happens twice.

cronsim parses the line and matches the days. It steps by whole hours and loses times after a half-hour change
(Australia/Lord_Howe), so the moments of a day are computed here.
"""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, product, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

LONGEST = 500
"""Characters of a line. A line with every minute, hour, day, month and weekday as a number has 330."""

ALL_YEARS = range(2000, 2028)
"""Every combination of length and first weekday. A line that matches no day in these never fires."""

GIVE_UP = 50
"""Years without a run after which the search stops. The longest gap is 40: a weekday on 29 February, across 2100."""

FORESEEN = timedelta(days=200 * 366)
"""How far ahead runs are shown. It bounds the search for a line that fires every 28 years."""

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)

WARNED_AHEAD = timedelta(days=365)
"""How far ahead `warnings` looks."""

MAX_WARNINGS = 20
MAX_NAMED_TIMES = 4
"""Local times of a day that a warning names one by one; of more it names the first and the last."""

ELAPSED = "a line whose minutes or hours begin with * follows the time that passes"
NEVER = "never fires: there is no such day"


class CronError(ValueError):
    """The line is malformed or never fires. Clients see the text, which quotes nothing."""


class CronLine:
    """A cron line in a time zone. Raises `CronError`."""

    def __init__(self, line: str, zone: ZoneInfo) -> None:
        self._sim = _parse(line)
        self.zone = zone
        self.fixed = not any(field.startswith("*") for field in line.split()[:2])
        self._minutes = sorted(60 * hour + minute for hour, minute in product(self._sim.hours, self._sim.minutes))
        if not any(day for day in self._days(date(ALL_YEARS[0], 1, 1), date(ALL_YEARS[-1], 12, 31))):
            raise CronError(NEVER)

    def next_runs(self, after: datetime, count: int) -> list[datetime]:
        """The first `count` moments after `after`, in UTC, at most `FORESEEN` ahead."""
        until = after + FORESEEN
        return list(takewhile(lambda moment: moment < until, islice(self.runs(after), count)))

    def runs(self, after: datetime) -> Iterator[datetime]:
        """Every moment after `after`, in UTC, strictly rising. Ends after `GIVE_UP` years without one."""
        last = after.astimezone(UTC)
        first = after.astimezone(self.zone).date()
        while day := self._next_day(first):
            for moment in self._moments(day, last):
                if moment > last:
                    yield moment
                    last = moment
            first = day + DAY

    def days_of_change(self, first: date, last: date) -> Iterator[date]:
        """The days of the line up to `last` on which the clock changes."""
        return (day for day in self._days(first, last) if self._changes(day))

    def local_times(self, day: date) -> list[datetime]:
        """The local times of the line on `day`."""
        return [datetime.combine(day, time()) + minutes * MINUTE for minutes in self._minutes]

    def moments_of(self, local: datetime) -> list[datetime]:
        """The moments, in UTC, at which the local clock shows `local`: none, one or two."""
        both = {local.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
        return sorted(one for one in both if one.astimezone(self.zone).replace(tzinfo=None) == local)

    def once(self, local: datetime) -> datetime:
        """The first moment at which the clock shows `local`; if it is in a gap, the first after the gap."""
        while not (found := self.moments_of(local)):
            local += MINUTE
        return found[0]

    def _next_day(self, first: date) -> date | None:
        return next(self._days(first, date(first.year + GIVE_UP, 12, 31)), None)

    def _days(self, first: date, last: date) -> Iterator[date]:
        day = first
        while day <= last:
            if day.month not in self._sim.months:
                day = (day.replace(day=1) + 31 * DAY).replace(day=1)
                continue
            if self._sim.match_day(day):
                yield day
            day += DAY

    def _moments(self, day: date, after: datetime) -> Iterator[datetime]:
        """The moments of `day`, rising. On a day without a clock change those up to `after` are left out."""
        if not self._changes(day):
            midnight = datetime.combine(day, time(), self.zone).astimezone(UTC)
            begin = bisect_right(self._minutes, (after - midnight) / MINUTE)
            return (midnight + minutes * MINUTE for minutes in self._minutes[begin:])
        asked = self.local_times(day)
        if self.fixed:
            return iter(sorted({self.once(local) for local in asked}))
        return iter(sorted({moment for local in asked for moment in self.moments_of(local)}))

    def _changes(self, day: date) -> bool:
        begin, end = (datetime.combine(one, time(), self.zone) for one in (day, day + DAY))
        return begin.utcoffset() != end.replace(fold=1).utcoffset()


def warnings(line: CronLine, after: datetime, shown: list[datetime]) -> list[str]:
    """Local times that a clock change skips or repeats, in the year after `after` and up to the last of `shown`."""
    until = max([after + WARNED_AHEAD, *shown])
    found: list[str] = []
    for day in line.days_of_change(after.astimezone(line.zone).date(), until.astimezone(line.zone).date()):
        found += _of_day(line, day)
        if len(found) >= MAX_WARNINGS:
            break
    return found[:MAX_WARNINGS]


def _parse(line: str) -> CronSim:
    if len(line) > LONGEST or not line.isascii() or not line.isprintable() or len(line.split()) != 5:
        raise CronError("must have five fields: minute, hour, day of month, month, day of week")
    try:
        return CronSim(line, datetime(2000, 1, 1))
    except CronSimError as error:
        minute, hour, day, month, weekday = line.split()
        if _parses(f"{minute} {hour} {day} * {weekday}") and _parses(f"* * * {month} *"):  # no month has that day
            raise CronError(NEVER) from None
        raise CronError(f"is not a cron line: {str(error).lower()}") from None


def _parses(line: str) -> bool:
    try:
        CronSim(line, datetime(2000, 1, 1))
    except CronSimError:
        return False
    return True


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
    if len(times) > MAX_NAMED_TIMES:
        return f"{times[0]:%H:%M} to {times[-1]:%H:%M} ({len(times)} times)"
    return ", ".join(f"{one:%H:%M}" for one in times)
