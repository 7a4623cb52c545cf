"""Time zones by their IANA names, from the locked `tzdata` package.

Not from the machine, because all processes of a release must use the same rules. Not in `schedule.py`, because the
client's command line needs zones without `cronsim`.
"""

from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from accepted.errors import did_you_mean


class UnknownZone(ValueError):
    """No IANA time zone has that name. Clients see the text."""


@cache
def zone(name: str) -> ZoneInfo:
    """The IANA zone `name`. Raises `UnknownZone`."""
    if name not in names():
        raise UnknownZone(f"is not an IANA time zone{did_you_mean(name, names())}")
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


@cache
def names() -> frozenset[str]:
    """Every IANA name, links included."""
    return frozenset(files("tzdata").joinpath("zones").read_text().split())
