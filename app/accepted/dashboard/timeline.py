"""A job's life to scale: when it waited, and when which attempt ran."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from accepted.dashboard.charts import WIDTH
from accepted.dashboard.texts import lasting, moment

LEAST = 2.0
"""The width of an attempt that was too short to be seen."""


class Stretch(NamedTuple):
    """A part of the life. `kind` is `waits`, or what an attempt came to."""

    x: float
    width: float
    kind: str
    words: str


class Timeline(NamedTuple):
    stretches: list[Stretch]
    begins: datetime
    ends: datetime
    ended: bool
    lasted: str


def timeline(job: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]], now: datetime) -> Timeline:
    """From its submission until it ended, or now."""
    begins = moment(job["created_at"])
    ended = job["finished_at"] is not None
    ends = max(moment(job["finished_at"]) if ended else now, begins)
    whole = max((ends - begins).total_seconds(), 0.001)

    def stretch(since: datetime, until: datetime, kind: str, said: str) -> Stretch:
        x = min(max((since - begins).total_seconds() / whole, 0.0), 1.0) * WIDTH
        seconds = (until - since).total_seconds()
        width = min(max(seconds / whole * WIDTH, LEAST), WIDTH - min(x, WIDTH - LEAST))
        return Stretch(min(x, WIDTH - LEAST), width, kind, f"{said} {lasting(max(seconds, 0.0))}")

    stretches = [stretch(begins, ends, "waits", "all of it:")]
    for one in attempts:
        until = moment(one["finished_at"]) if one["finished_at"] else now
        kind = one["outcome"] or "running"
        stretches.append(stretch(moment(one["started_at"]), until, kind, f"attempt {one['attempt']}, {kind}:"))
    return Timeline(stretches, begins, ends, ended, lasting(whole))
