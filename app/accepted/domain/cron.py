"""Cron lines: five fields, read by cronsim, in UTC or a time zone with its changes of the clock.

Debian's rules (cron(8)), as cronsim has them. A line is **fixed** when neither its minutes nor its hours begin with
`*`: each of its local times then happens once a day, one that a change of the clock skips right after the gap, one that
comes twice the first time. The others follow the time that passes: what the clock skips does not happen, what it shows
twice happens twice. cronsim itself walks in steps of an hour, and loses times after a change of half an hour
(Australia/Lord_Howe); so it is asked for the days, and the moments of a day are found here.
"""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, product, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

LONGEST = 500
"""Characters of a line; every minute, hour, day, month and weekday by its number takes 330."""

ALL_YEARS = range(2000, 2028)
"""Both lengths of a year with each first weekday: a line without a day in these has none in any year."""

GIVE_UP = 50
"""Years without a day of the line. 40 is the most: one weekday on 29 February, past a year like 2100 without it."""

FORESEEN = timedelta(days=200 * 366)
"""Further ahead no run is shown: a line that fires every 28 years could keep us busy looking."""

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
    """No line that could ever fire. The text may be shown: it quotes nothing."""


class CronLine:
    """A line and the zone that it is read in. Raises `CronError`."""

    def __init__(self, line: str, zone: ZoneInfo) -> None:
        self._sim = _parse(line)
        self.zone = zone
        self.fixed = not any(field.startswith("*") for field in line.split()[:2])
        self._minutes = sorted(60 * hour + minute for hour, minute in product(self._sim.hours, self._sim.minutes))
        if not any(day for day in self._days(date(ALL_YEARS[0], 1, 1), date(ALL_YEARS[-1], 12, 31))):
            raise CronError(NEVER)

    def next_runs(self, after: datetime, count: int) -> list[datetime]:
        """The first `count` moments after `after`, in UTC, as far as can be foreseen."""
        until = after + FORESEEN
        return list(takewhile(lambda moment: moment < until, islice(self.runs(after), count)))

    def runs(self, after: datetime) -> Iterator[datetime]:
        """Every moment after `after`, in UTC, strictly rising. Ends when nothing comes for `GIVE_UP` years."""
        last = after.astimezone(UTC)
        first = after.astimezone(self.zone).date()
        while day := self._next_day(first):
            for moment in self._moments(day, last):
                if moment > last:
                    yield moment
                    last = moment
            first = day + DAY

    def days_of_change(self, first: date, last: date) -> Iterator[date]:
        """The days of the line, `last` included, on which the clock is changed."""
        return (day for day in self._days(first, last) if self._changes(day))

    def local_times(self, day: date) -> list[datetime]:
        """What the line asks for on `day`, by the clock on the wall."""
        return [datetime.combine(day, time()) + minutes * MINUTE for minutes in self._minutes]

    def moments_of(self, local: datetime) -> list[datetime]:
        """When the clock shows `local`, in UTC: once, twice, or not at all."""
        both = {local.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
        return sorted(one for one in both if one.astimezone(self.zone).replace(tzinfo=None) == local)

    def once(self, local: datetime) -> datetime:
        """The first moment at which the clock shows `local`, or the first after the gap in which it lies."""
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
        """The moments of `day`, rising; on an ordinary day without those up to `after`."""
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
    """The local times that are skipped or come twice in the year after `after`, and in what is `shown` beyond it."""
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
        minute, hour, day, _, weekday = line.split()
        if "day-of-month" in str(error) and _is_read(f"{minute} {hour} {day} * {weekday}"):
            raise CronError(NEVER) from None
        raise CronError(f"is no cron line: {str(error).lower()}") from None


def _is_read(line: str) -> bool:
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
