"""The first page: what is wrong right now and what to do about it, and how much goes in and out."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any, NamedTuple

from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.charts import Chart, chart
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.figures import Point, ended, failed, points, waits
from accepted.dashboard.routing import pages
from accepted.dashboard.texts import moment, number
from accepted.dashboard.visit import Visit
from accepted.dashboard.ways import page_about

router = pages()

DAY = 86400

ENOUGH = 10.0
"""Seconds of a step after which it has a rate: counts are a few seconds late."""


class Span(NamedTuple):
    """A time that can be chosen: its name, and seconds of all of it and of a step."""

    name: str
    seconds: int
    step: int


SPANS = {
    "hour": Span("1 hour", 3600, 60),
    "6h": Span("6 hours", 6 * 3600, 300),
    "day": Span("24 hours", DAY, 1200),
    "week": Span("7 days", 7 * DAY, 7200),
}
"""By the word in the query."""


@router.get("/")
async def overview(visit: Visitor) -> Response:
    chosen = visit.query("span", "hour")
    span = chosen if chosen in SPANS else "hour"
    status, figures = await asyncio.gather(visit.get("/status"), _figures(visit, SPANS[span]))
    problems = [problem | {"page": page_about(problem)} for problem in status["problems"]]
    return visit.show("overview.html", "Overview", problems=problems, figures=figures, spans=SPANS, span=span)


async def _figures(visit: Visit, span: Span) -> dict[str, Any] | None:
    """Charts and numbers; None while the ledger is away, which the problems say."""
    try:
        shown, hour, day = await asyncio.gather(
            *(points(visit, one.seconds, one.step) for one in (span, SPANS["hour"], SPANS["day"]))
        )
    except ApiRefusal as refusal:
        if refusal.status != 503:
            raise
        return None
    last = hour[-1]
    return {
        "in": _a_minute(hour, lambda point: point["accepted"]),
        "out": _a_minute(hour, ended),
        "depth": last["depth"],
        "oldest": last["oldest"],
        "worst_hour": _worst(hour),
        "worst_day": _worst(day),
        "failures": _failures(shown),
        "charts": _charts(shown, span),
    }


def _charts(shown: list[Point], span: Span) -> list[Chart]:
    def rate(point: Point, jobs: int) -> float | None:
        seconds = _measured(point, span.step)
        return None if seconds < ENOUGH else jobs * 60 / seconds

    return [
        chart(
            "Jobs a minute", shown, number,
            accepted=lambda point: rate(point, point["accepted"]), ended=lambda point: rate(point, ended(point)),
        ),
        *waits(shown),
        chart("Failed attempts a minute", shown, number, failed=lambda point: rate(point, failed(point))),
    ]  # fmt: skip


def _measured(point: Point, step: int) -> float:
    """Seconds of its step that have passed."""
    passed = (datetime.now(UTC) - moment(point["at"])).total_seconds()
    return min(max(passed, 0.0), step)


def _a_minute(minutes: list[Point], read: Any) -> float:
    """The mean of the last five minutes, and of what has passed of this one."""
    last = minutes[-6:]
    return float(sum(map(read, last)) * 60 / max(sum(_measured(point, 60) for point in last), 1.0))


def _worst(steps: list[Point]) -> float | None:
    measured: list[float] = [point["wait_p99"] for point in steps if point["wait_p99"] is not None]
    return max(measured, default=None)


def _failures(shown: list[Point]) -> list[tuple[str, int]]:
    """Failed attempts by class, the most frequent first."""
    found: Counter[str] = Counter()
    for point in shown:
        found.update(point["failed"])
    return found.most_common()
