"""What a measurement comes to: one row a figure, with its goal beside it."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple


class Failed(Exception):
    """A figure could not be taken: the run ends with exit code 1."""


class Round(NamedTuple):
    """One turn of A/B: our figure and that of the bare thing, one right after the other, in the same unit."""

    ours: float
    bare: float

    @property
    def ratio(self) -> float:
        return self.ours / self.bare


class Row(NamedTuple):
    """A line of the report. `met` is None where there is no goal."""

    name: str
    figure: str
    goal: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        verdict = {True: "met", False: "NOT MET", None: ""}[self.met]
        return f"{self.name:<58} {self.figure:<42} {self.goal:<10} {verdict}".rstrip()

    @property
    def markdown(self) -> str:
        verdict = {True: "met", False: "**not met**", None: ""}[self.met]
        return f"| {self.name} | {self.figure} | {self.goal} | {verdict} |"


HEADER = Row("name", "figure", "goal")


def compared(
    name: str, rounds: Sequence[Round], goal: float, *, unit: str = "/s", less_is_better: bool = False
) -> list[Row]:
    """The median of the rounds' ratios (noise hits both halves of a round), and the figures behind it."""
    ratios = [one.ratio for one in rounds]
    ours, bare = median(one.ours for one in rounds), median(one.bare for one in rounds)
    middle = median(ratios)
    met = middle <= goal if less_is_better else middle >= goal
    return [
        Row(
            name,
            f"{middle:.2f} ({min(ratios):.2f}..{max(ratios):.2f})",
            f"{'<=' if less_is_better else '>='} {goal:g}",
            met,
        ),
        Row("", f"{ours:,.0f}{unit} against {bare:,.0f}{unit}"),
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[min(int(len(ranked) * share), len(ranked) - 1)]
