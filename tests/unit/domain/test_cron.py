"""Cron lines: what they read, when they fire, and both changes of the clock of 2027 in three zones."""

import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.cron import LONGEST, CronError, CronLine, warnings
from accepted.domain.zones import UnknownZone, names, zone

NEW_YORK, BERLIN, LORD_HOWE = "America/New_York", "Europe/Berlin", "Australia/Lord_Howe"
REFUSED_WITHIN = 0.05  # seconds

HOURLY, FIXED, QUARTERS = "0 * * * *", "30 2 * * *", "*/15 * * * *"

# zone, line, from (local time, before the change), and then as the clock on the wall and its offset show it
CHANGES = [
    (NEW_YORK, HOURLY, "2027-03-14T00:30", "01:00-05 03:00-04 04:00-04"),
    (NEW_YORK, HOURLY, "2027-11-07T00:30", "01:00-04 01:00-05 02:00-05 03:00-05"),
    (NEW_YORK, FIXED, "2027-03-13T12:00", "03:00-04 02:30-04"),
    (NEW_YORK, FIXED, "2027-11-06T12:00", "02:30-05 02:30-05"),
    (NEW_YORK, QUARTERS, "2027-03-14T01:20", "01:30-05 01:45-05 03:00-04 03:15-04"),
    (NEW_YORK, QUARTERS, "2027-11-07T01:20", "01:30-04 01:45-04 01:00-05 01:15-05 01:30-05 01:45-05 02:00-05"),
    (BERLIN, HOURLY, "2027-03-28T00:30", "01:00+01 03:00+02 04:00+02"),
    (BERLIN, HOURLY, "2027-10-31T00:30", "01:00+02 02:00+02 02:00+01 03:00+01"),
    (BERLIN, FIXED, "2027-03-27T12:00", "03:00+02 02:30+02"),
    (BERLIN, FIXED, "2027-10-30T12:00", "02:30+02 02:30+01"),
    (BERLIN, QUARTERS, "2027-03-28T01:20", "01:30+01 01:45+01 03:00+02 03:15+02"),
    (BERLIN, QUARTERS, "2027-10-31T02:20", "02:30+02 02:45+02 02:00+01 02:15+01 02:30+01 02:45+01 03:00+01"),
    (LORD_HOWE, HOURLY, "2027-10-03T00:30", "01:00+1030 03:00+11 04:00+11"),
    (LORD_HOWE, HOURLY, "2027-04-04T00:30", "01:00+11 02:00+1030 03:00+1030"),
    (LORD_HOWE, FIXED, "2027-10-02T12:00", "02:30+11 02:30+11"),
    (LORD_HOWE, FIXED, "2027-04-03T12:00", "02:30+1030 02:30+1030"),
    (LORD_HOWE, QUARTERS, "2027-10-03T01:20", "01:30+1030 01:45+1030 02:30+11 02:45+11"),
    (LORD_HOWE, QUARTERS, "2027-04-04T01:20", "01:30+11 01:45+11 01:30+1030 01:45+1030 02:00+1030"),
]


@pytest.mark.parametrize(("name", "line", "local", "expected"), CHANGES)
def test_the_changes_of_2027(name: str, line: str, local: str, expected: str) -> None:
    after = datetime.fromisoformat(local).replace(tzinfo=zone(name))
    wanted = expected.split()
    found = CronLine(line, zone(name)).next_runs(after, len(wanted))
    assert [_on_the_wall(moment, name) for moment in found] == wanted
    assert found == _by_cronsim(line, after, len(wanted))


@pytest.mark.parametrize("name", [NEW_YORK, BERLIN, LORD_HOWE])
@pytest.mark.parametrize("line", [HOURLY, FIXED])
def test_all_of_2027_is_as_cronsim_has_it(name: str, line: str) -> None:
    after = datetime(2027, 1, 1, tzinfo=zone(name))
    count = 400 if line == FIXED else 9000
    assert CronLine(line, zone(name)).next_runs(after, count) == _by_cronsim(line, after, count)


@pytest.mark.parametrize(
    ("line", "local", "expected"),
    [
        ("0,30 2 * * *", "2027-03-13T12:00", "03:00-04 02:00-04 02:30-04"),
        ("0 2,3 * * *", "2027-03-13T12:00", "03:00-04 02:00-04"),
        ("30 1-3 * * *", "2027-03-14T01:00", "01:30-05 03:00-04 03:30-04 01:30-04"),
        ("30 1 * * *", "2027-11-07T01:45", "01:30-05"),
    ],
)
def test_two_times_that_fall_together_run_once(line: str, local: str, expected: str) -> None:
    after = datetime.fromisoformat(local).replace(tzinfo=zone(NEW_YORK))
    found = CronLine(line, zone(NEW_YORK)).next_runs(after, len(expected.split()))
    assert [_on_the_wall(moment, NEW_YORK) for moment in found] == expected.split()


def test_a_repeated_local_time_runs_once() -> None:
    in_between = datetime(2027, 11, 7, 1, 10, tzinfo=zone(NEW_YORK), fold=1)
    (found,) = CronLine("30 1 * * *", zone(NEW_YORK)).next_runs(in_between, 1)
    assert found == datetime(2027, 11, 8, 6, 30, tzinfo=UTC)


def test_a_half_hour_change_loses_no_time() -> None:
    """cronsim walks in whole hours here, and misses 03:00 and 03:20."""
    after = datetime(2027, 10, 3, 0, 0, tzinfo=zone(LORD_HOWE))
    found = CronLine("*/20 3 * * *", zone(LORD_HOWE)).next_runs(after, 3)
    assert [_on_the_wall(moment, LORD_HOWE) for moment in found] == ["03:00+11", "03:20+11", "03:40+11"]


NEVER = [
    "0 0 31 2 *",
    "0 0 30 2 *",
    "0 0 31 4 *",
    "* * 31 2,4,6,9,11 *",
    "0 0 30-31 2 *",
    "0 0 */28 2 1#2",
    "0 0 30 2 */7",
]


@pytest.mark.parametrize("line", NEVER)
@pytest.mark.parametrize("name", ["UTC", NEW_YORK])
def test_a_line_that_never_fires_is_refused_at_once(line: str, name: str) -> None:
    zone(name)
    begun = time.perf_counter()
    with pytest.raises(CronError, match="never fires"):
        CronLine(line, zone(name))
    assert time.perf_counter() - begun < REFUSED_WITHIN


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("0 0 29 2 *", "2028-02-29"),
        ("0 0 29 2 */7", "2032-02-29"),
        ("0 0 * 2 1#5", "2044-02-29"),
        ("0 0 31 2 1", "2027-02-01"),
        ("0 0 L 2 *", "2027-02-28"),
        ("0 0 LW 5 *", "2027-05-31"),
        ("0 0 * jan mon", "2027-01-04"),
        ("0 0 * * 7", "2027-01-03"),
        ("0 0 1 1,6 *", "2027-06-01"),
    ],
)
def test_lines_that_fire_now_and_then(line: str, first: str) -> None:
    (found,) = CronLine(line, zone("UTC")).next_runs(datetime(2027, 1, 1, 12, tzinfo=UTC), 1)
    assert f"{found:%Y-%m-%d}" == first


def test_the_longest_wait() -> None:
    """A Sunday on 29 February, over 2100, which is no leap year."""
    found = CronLine("0 0 29 2 */7", zone("UTC")).next_runs(datetime(2088, 3, 1, tzinfo=UTC), 1)
    assert found == [datetime(2128, 2, 29, tzinfo=UTC)]


@pytest.mark.parametrize(
    "line",
    [
        "", "* * * *", "* * * * * *", "0 * * * * *", "@daily", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *",
        "* * * 13 *", "* * * * 8", "5-1 * * * *", "*/0 * * * *", "a * * * *", "*,, * * * *", "-1 * * * *",
        "* * * * L", "* * * * 1#6", "* * * * *\n", "*\u3000* * * *", "\uff11 * * * *", "0 0 1 1 fr\u0131", "9" * 5000,
        "0," * LONGEST + "0 * * * *", "*/" + "9" * 400 + " * * * *x",
    ],
)  # fmt: skip
def test_malformed_lines_are_refused(line: str) -> None:
    with pytest.raises(CronError):
        CronLine(line, zone("UTC"))


@pytest.mark.parametrize(
    "name", ["", "utc", "Mars/Base", "../etc/passwd", "Europe", "/Europe/Berlin", "posix/UTC", "a\0b"]
)
def test_unknown_zones_are_refused(name: str) -> None:
    with pytest.raises(UnknownZone):
        zone(name)


def test_a_mistyped_zone_gets_a_hint() -> None:
    with pytest.raises(UnknownZone, match='did you mean "Europe/Berlin"'):
        zone("Europe/Berlim")


def test_every_zone_can_be_read() -> None:
    now = datetime(2027, 1, 1, tzinfo=UTC)
    assert len(names()) > 500
    for name in names():
        assert len(CronLine("30 2 * * *", zone(name)).next_runs(now, 2)) == 2


FIELDS = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]


@st.composite
def lines(draw: st.DrawFn) -> str:
    return " ".join(draw(_field(low, high)) for low, high in FIELDS)


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    spans = st.tuples(number, number).map(lambda pair: "{}-{}".format(*sorted(pair)))
    steps = st.integers(1, high).map("*/{}".format)
    several = st.lists(st.one_of(number.map(str), spans), min_size=2, max_size=3).map(",".join)
    return st.one_of(st.just("*"), number.map(str), spans, steps, several)


moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)).map(lambda one: one.replace(tzinfo=UTC))


@given(lines(), moments)
def test_in_utc_it_is_as_cronsim_has_it(line: str, after: datetime) -> None:
    try:
        read = CronLine(line, zone("UTC"))
    except CronError:
        return
    assert read.next_runs(after, 3) == _by_cronsim(line, after, 3)


@given(lines(), moments, st.sampled_from(sorted(names())))
def test_runs_rise_and_continue_from_any_run(line: str, after: datetime, name: str) -> None:
    try:
        read = CronLine(line, zone(name))
    except CronError:
        return
    found = read.next_runs(after, 4)
    assert all(earlier < later for earlier, later in pairwise([after, *found]))
    assert all(moment.second == moment.microsecond == 0 for moment in found)
    assert found == read.next_runs(after, 4)
    for begin, later in zip([after, *found], found, strict=False):
        assert read.next_runs(begin, 1) == [later]
        assert read.next_runs(later - timedelta(microseconds=1), 1) == [later]


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("UTC", HOURLY, []),
        (NEW_YORK, "30 12 * * *", []),
        (
            NEW_YORK,
            FIXED,
            ["2027-03-14: the clock in America/New_York skips 02:30; it runs once, right after the gap, at 03:00"],
        ),
        (
            BERLIN,
            FIXED,
            [
                "2027-03-28: the clock in Europe/Berlin skips 02:30; it runs once, right after the gap, at 03:00",
                "2027-10-31: the clock in Europe/Berlin shows 02:30 twice; it runs the first time only",
            ],
        ),
        (LORD_HOWE, FIXED, []),
    ],
)
def test_warnings_name_skipped_and_repeated_times(name: str, line: str, expected: list[str]) -> None:
    after = datetime(2027, 1, 1, tzinfo=UTC)
    read = CronLine(line, zone(name))
    assert warnings(read, after, read.next_runs(after, 5)) == expected


def test_warnings_of_a_line_that_follows_elapsed_time() -> None:
    after = datetime(2027, 1, 1, tzinfo=UTC)
    found = warnings(CronLine("* * * * *", zone(LORD_HOWE)), after, [])
    assert [one.partition("; it runs")[0] for one in found] == [
        "2027-04-04: the clock in Australia/Lord_Howe shows 01:30 to 01:59 (30 times) twice",
        "2027-10-03: the clock in Australia/Lord_Howe skips 02:00 to 02:29 (30 times)",
    ]


def test_warnings_reach_to_the_last_run_shown() -> None:
    read, after = CronLine("30 2 14 3 *", zone(NEW_YORK)), datetime(2028, 1, 1, tzinfo=UTC)
    assert warnings(read, after, read.next_runs(after, 1)) == []
    (found,) = warnings(read, after, read.next_runs(after, 8))
    assert found.startswith("2032-03-14")


def _on_the_wall(moment: datetime, name: str) -> str:
    return f"{moment.astimezone(zone(name)):%H:%M%z}".replace("0000", "00").removesuffix("00")


def _by_cronsim(line: str, after: datetime, count: int) -> list[datetime]:
    found: list[datetime] = []
    for moment in CronSim(line, after):
        if not found or moment.astimezone(UTC) > found[-1]:
            found.append(moment.astimezone(UTC))
        if len(found) == count:
            break
    return found
