"""Charts as SVG made here: lines and bars over time, each step with its values for whoever points at it.

A chart is drawn in a box of `WIDTH` times `HEIGHT` that is stretched to its place on the page; texts are beside it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from accepted.dashboard.texts import moment

WIDTH, HEIGHT = 600, 100

Value = float | None
Shown = Callable[[Value], str]


class ChartLine(NamedTuple):
    """One line of a chart. `kind` is its colour in the style sheet; `last` is what it has come to."""

    name: str
    kind: str
    path: str
    area: str
    last: str


class Step(NamedTuple):
    """A column of a chart, and its values in words."""

    x: float
    width: float
    words: str


class Chart(NamedTuple):
    title: str
    lines: list[ChartLine]
    steps: list[Step]
    top: str
    """The value at the upper edge."""
    begins: datetime
    ends: datetime
    empty: bool
    """Nothing was measured."""


def chart(
    title: str, points: Sequence[dict[str, Any]], shown: Shown, **lines: Callable[[dict[str, Any]], Value]
) -> Chart:
    """A chart of `points`, as `GET /stats` answers them, with a line for each of `lines`."""
    values = {name: [read(point) for point in points] for name, read in lines.items()}
    measured = [value for of in values.values() for value in of if value is not None]
    top = max(measured, default=0.0)
    drawn = [_line(name, kind, values[name], top, shown) for kind, name in zip("abc", values, strict=False)]
    times = [moment(point["at"]) for point in points]
    words = [_words(at, {name: shown(of[k]) for name, of in values.items()}) for k, at in enumerate(times)]
    width = WIDTH / max(len(points), 1)
    steps = [Step(k * width, width, said) for k, said in enumerate(words)]
    return Chart(title, drawn, steps, shown(top), times[0], times[-1], not any(measured))


def _words(at: datetime, values: dict[str, str]) -> str:
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    return f"{at:%Y-%m-%d %H:%M} UTC: {said}"


def _line(name: str, kind: str, values: Sequence[Value], top: float, shown: Shown) -> ChartLine:
    """A step that was not measured is a gap."""
    width = WIDTH / max(len(values), 1)
    runs: list[list[str]] = [[]]
    for k, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(f"{(k + 0.5) * width:.1f},{_height(value, top):.1f}")
    path = "".join("M" + "L".join(run if len(run) > 1 else run * 2) for run in runs if run)
    area = "".join(f"M{_foot(run[0])}L{'L'.join(run)}L{_foot(run[-1])}Z" for run in runs if run)
    last = next((value for value in reversed(values) if value is not None), None)
    return ChartLine(name, kind, path, area, shown(last))


def _height(value: float, top: float) -> float:
    return HEIGHT - (value / top if top else 0.0) * (HEIGHT - 4) - 1


def _foot(point: str) -> str:
    return f"{point.partition(',')[0]},{HEIGHT}"
