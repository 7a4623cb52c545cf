"""The Markdown table of all rows, and the ratios that Accepted is to reach."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from tests.benchmarks.figures import Round, Row, compared
from tests.benchmarks.peers.catalogue import PEERS
from tests.benchmarks.peers.measuring import Figures

HEADER = """\
| through HTTP, started as each project's own docs say | submit/s | drain, no-op jobs/s | first job after worker start |
|---|---|---|---|"""


class Goal(NamedTuple):
    """Accepted drains at least `factor` times as many jobs a second as that peer."""

    ours: str
    peer: str
    factor: float


GOALS = (
    Goal("accepted-rabbitmq", "dramatiq", 2),
    Goal("accepted-rabbitmq", "celery", 3),
    Goal("accepted-rabbitmq", "taskiq", 3),
    Goal("accepted-rabbitmq", "procrastinate", 3),
    Goal("accepted-postgres", "procrastinate", 10),
    Goal("accepted-postgres", "pg-boss", 10),
    Goal("accepted-postgres", "bullmq", 1),
)


def line(name: str, rounds: Sequence[Figures]) -> str:
    """The row of one peer: medians, with the smallest and the largest where there were several rounds."""
    submit = _spread([one.submit for one in rounds], "{:,.0f}".format)
    drain = _spread([one.drain for one in rounds], "{:,.0f}".format)
    first = _spread([one.first for one in rounds], "{:.1f}".format)
    return f"| {PEERS[name].title} | {submit} | {drain} | {first} s |"


def ratios(found: Mapping[str, Sequence[Figures]]) -> list[Row]:
    """Of the jobs drained a second; the goals of which both sides were measured."""
    return [
        row
        for goal in GOALS
        if goal.ours in found and goal.peer in found
        for row in compared(f"drain: {goal.ours} : {goal.peer}", _rounds(found, goal), goal.factor)
    ]


def _rounds(found: Mapping[str, Sequence[Figures]], goal: Goal) -> list[Round]:
    pairs = zip(found[goal.ours], found[goal.peer], strict=True)
    return [Round(ours.drain, peer.drain) for ours, peer in pairs]


def _spread(values: Sequence[float], written: Callable[[float], str]) -> str:
    middle = written(median(values))
    return middle if len(values) == 1 else f"{middle} ({written(min(values))}..{written(max(values))})"
