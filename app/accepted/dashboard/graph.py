"""The graph of a workflow as SVG: each job to the right of all that it depends on, and its longest chain by time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from accepted.dashboard.texts import lasting, moment

STEP_X, STEP_Y = 220, 44
"""Pixels between the left edges of two columns, and between two rows."""

WIDTH, HEIGHT = 170, 30
"""Pixels of a job."""

MOST = 300
"""Jobs that are drawn. A larger graph is a thicket that nobody reads; the table has them all."""

MOST_LETTERS = 20
"""Characters of a ref that fit."""

MOST_NAMED = 6
"""Jobs of a chain that a sentence names."""

WorkflowJob = Mapping[str, Any]
"""A job as `GET /batches/{id}` answers it: with its ref, status, and the refs that it depends on."""

RunTimes = Mapping[str, float]
"""Seconds that jobs have run, by ref. One that has not started is not there."""


class Placed(NamedTuple):
    """A job where it is drawn."""

    x: int
    y: int
    job: WorkflowJob
    words: str
    title: str
    critical: bool
    """It is in the longest chain."""


class Arrow(NamedTuple):
    """The path of a line from a job to one that depends on it."""

    path: str
    critical: bool


class Graph(NamedTuple):
    width: int
    height: int
    jobs: list[Placed]
    arrows: list[Arrow]


class Chain(NamedTuple):
    """Jobs that each depend on the one before, and the seconds that they have run one after the other."""

    refs: list[str]
    seconds: float

    def sentence(self, whole: float) -> str:
        """`whole`: seconds of the workflow so far."""
        return f"The longest chain is {_named(self.refs)}: {lasting(self.seconds)} of {lasting(whole)}."


def run_times(jobs: Sequence[Mapping[str, Any]], refs: Mapping[str, str], now: datetime) -> RunTimes:
    """Of `jobs` as `GET /jobs` answers them, until `now` of those that run. `refs` are by id."""
    found = {}
    for job in jobs:
        if job["started_at"] and job["id"] in refs and (job["finished_at"] or job["status"] == "running"):
            until = moment(job["finished_at"]) if job["finished_at"] else now
            found[refs[job["id"]]] = max((until - moment(job["started_at"])).total_seconds(), 0.0)
    return found


def longest_chain(jobs: Sequence[WorkflowJob], ran: RunTimes) -> Chain | None:
    """The chain of jobs that have run longest, one after the other; None before one has run.

    `jobs`: each after those that it depends on. A chain begins and ends with a job that has run.
    """
    seconds: dict[str, float] = {}
    before: dict[str, str | None] = {}
    for job in jobs:
        needs: list[str] = job["depends_on"]
        last = max(needs, key=lambda ref: seconds[ref], default=None)
        before[job["ref"]] = last if last is not None and seconds[last] > 0 else None
        seconds[job["ref"]] = (seconds[last] if last is not None else 0.0) + ran.get(job["ref"], 0.0)
    end = max(seconds, key=lambda ref: seconds[ref], default=None)  # of equal ones the first, so no job that waits
    if end is None or not seconds[end]:
        return None
    refs = [end]
    while (at := before[refs[-1]]) is not None:
        refs.append(at)
    return Chain(refs[::-1], seconds[end])


def graph(jobs: Sequence[WorkflowJob], chain: Chain | None, ran: RunTimes) -> Graph | None:
    """`jobs`: each after those that it depends on. None if they are too many."""
    if not 0 < len(jobs) <= MOST:
        return None
    columns: dict[str, int] = {}
    rows = Counter[int]()
    placed: dict[str, Placed] = {}
    critical = frozenset(chain.refs if chain else ())
    for job in jobs:
        ref = job["ref"]
        column = columns[ref] = max((columns[one] + 1 for one in job["depends_on"]), default=0)
        x, y = column * STEP_X + 1, rows[column] * STEP_Y + 1
        placed[ref] = Placed(x, y, job, _short(ref), _title(job, ran), ref in critical)
        rows[column] += 1
    steps = set(zip(chain.refs, chain.refs[1:], strict=False)) if chain else set()
    arrows = [
        Arrow(_path(placed[one], to), (one, ref) in steps) for ref, to in placed.items() for one in to.job["depends_on"]
    ]
    arrows.sort(key=lambda one: one.critical)  # what is drawn last lies on top
    width, height = max(columns.values()) * STEP_X + WIDTH + 2, (max(rows.values()) - 1) * STEP_Y + HEIGHT + 2
    return Graph(width, height, list(placed.values()), arrows)


def _title(job: WorkflowJob, ran: RunTimes) -> str:
    said = f"{job['ref']}: {job['status']}"
    return f"{said}, {lasting(ran[job['ref']])}" if job["ref"] in ran else said


def _path(start: Placed, end: Placed) -> str:
    x1, y1, x2, y2 = start.x + WIDTH, start.y + HEIGHT // 2, end.x, end.y + HEIGHT // 2
    bend = (x2 - x1) // 2
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"


def _named(refs: list[str]) -> str:
    names = [_short(one) for one in refs]
    if len(names) > MOST_NAMED:
        left_out = f"{len(names) - MOST_NAMED} more"
        names = [*names[: MOST_NAMED // 2], left_out, *names[-MOST_NAMED // 2 :]]
    return " → ".join(names)


def _short(ref: str) -> str:
    return ref if len(ref) <= MOST_LETTERS else ref[: MOST_LETTERS - 1] + "…"
