"""Time zones by their IANA names, from the database that is locked with the code.

Not from the machine's: every process of one release must see the same clocks go forward on the same day.
"""

from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from accepted.domain.nearest import did_you_mean


class UnknownZone(ValueError):
    """No IANA time zone has that name. The text may be shown."""


@cache
def zone(name: str) -> ZoneInfo:
    """The zone called `name`. Raises `UnknownZone`."""
    if name not in names():
        raise UnknownZone(f"is no IANA time zone{did_you_mean(name, names())}")
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


@cache
def names() -> frozenset[str]:
    """Every name, links included."""
    return frozenset(files("tzdata").joinpath("zones").read_text().split())
