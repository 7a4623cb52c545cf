"""Points of `GET /stats` until now, and what several pages make of them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from accepted.dashboard.charts import Chart, chart
from accepted.dashboard.texts import lasting, number
from accepted.dashboard.visit import Visit

Point = dict[str, Any]


async def points(visit: Visit, seconds: int, step: int, queue: str | None = None) -> list[Point]:
    """Of the seconds that end with this minute, of all queues or one."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    since = (now - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    found: list[Point] = (await visit.get("/stats", queue=queue, since=since, step=step))["series"]
    return found


def failed(point: Point) -> int:
    """Attempts that failed in any class."""
    by_class: dict[str, int] = point["failed"]
    return sum(by_class.values())


def ended(point: Point) -> int:
    return int(point["succeeded"]) + failed(point)


def waits(points: Sequence[Point]) -> list[Chart]:
    """How many jobs waited, and for how long."""
    return [
        chart("Waiting jobs", points, number, waiting=lambda point: point["depth"]),
        chart("Wait, 99 % of jobs", points, lasting, wait=lambda point: point["wait_p99"]),
    ]
