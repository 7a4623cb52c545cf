"""What a measurement comes to: one row a figure, with its goal beside it."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple


class Failed(Exception):
    """A figure could not be taken: the run ends with exit code 1."""


class Round(NamedTuple):
    """One turn of A/B: our rate and that of the bare thing, one right after the other. Both per second."""

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


HEADER = Row("name", "figure", "goal")


def compared(name: str, rounds: Sequence[Round], goal: float) -> list[Row]:
    """The median of the rounds' ratios (noise of the machine hits both halves of a round), and the rates behind it."""
    ratios = [one.ratio for one in rounds]
    ours, bare = median(one.ours for one in rounds), median(one.bare for one in rounds)
    middle = median(ratios)
    return [
        Row(name, f"{middle:.2f} ({min(ratios):.2f}..{max(ratios):.2f})", f">= {goal:g}", middle >= goal),
        Row("", f"{ours:,.0f}/s against {bare:,.0f}/s"),
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[min(int(len(ranked) * share), len(ranked) - 1)]
