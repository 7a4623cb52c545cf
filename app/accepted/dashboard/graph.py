"""The graph of a workflow as SVG: each job to the right of all that it depends on."""

from collections import Counter
from typing import Any, NamedTuple

STEP_X, STEP_Y = 220, 44
"""Pixels between the left edges of two columns, and between two rows."""

WIDTH, HEIGHT = 170, 30
"""Pixels of a job."""

MOST = 300
"""Jobs that are drawn. A larger graph is a thicket that nobody reads; the table has them all."""

MOST_LETTERS = 20
"""Characters of a ref that fit."""


class Placed(NamedTuple):
    """A job where it is drawn."""

    x: int
    y: int
    job: dict[str, Any]
    words: str


class Graph(NamedTuple):
    width: int
    height: int
    jobs: list[Placed]
    arrows: list[str]
    """Paths from a job to one that depends on it."""


def graph(jobs: list[dict[str, Any]]) -> Graph | None:
    """`jobs` as `GET /batches/{id}` answers them: each after those that it depends on. None if they are too many."""
    if not 0 < len(jobs) <= MOST:
        return None
    columns: dict[str, int] = {}
    rows = Counter[int]()
    placed: dict[str, Placed] = {}
    for job in jobs:
        column = columns[job["ref"]] = max((columns[one] + 1 for one in job["depends_on"]), default=0)
        placed[job["ref"]] = Placed(column * STEP_X + 1, rows[column] * STEP_Y + 1, job, _short(job["ref"]))
        rows[column] += 1
    arrows = [_arrow(placed[one], to) for to in placed.values() for one in to.job["depends_on"]]
    width, height = max(columns.values()) * STEP_X + WIDTH + 2, (max(rows.values()) - 1) * STEP_Y + HEIGHT + 2
    return Graph(width, height, list(placed.values()), arrows)


def _arrow(start: Placed, end: Placed) -> str:
    x1, y1, x2, y2 = start.x + WIDTH, start.y + HEIGHT // 2, end.x, end.y + HEIGHT // 2
    bend = (x2 - x1) // 2
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"


def _short(ref: str) -> str:
    return ref if len(ref) <= MOST_LETTERS else ref[: MOST_LETTERS - 1] + "…"
