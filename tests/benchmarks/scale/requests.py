"""The requests whose cost must not grow with the ledger, each sent one after the other on one connection."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import NamedTuple
from uuid import UUID

import httpx

from tests.benchmarks.figures import Row
from tests.benchmarks.scale.filling import RARE

REPEATS = 20

NOOP = {"type": "noop"}


class Asked(NamedTuple):
    """A request, as method and path, and what it may take in milliseconds; None: `FLAT` times the empty ledger."""

    name: str
    path: str
    goal: float | None = None


FLAT = 1.5
"""How much longer a request without a goal of its own may take than with an empty ledger: the noise of two runs."""


class Taken(NamedTuple):
    """What the answers to one request came to: the worst status, and milliseconds."""

    status: int
    median: float
    worst: float

    def __str__(self) -> str:
        return f"{self.median:,.1f} ({self.worst:,.1f})" if self.status < 400 else f"{self.status}!"


PAGES = (
    "/", "/ui/jobs", "/ui/jobs?status=cancelled", "/ui/jobs/{job}", "/ui/queues", "/ui/queues/default",
    "/ui/dead-letters", "/ui/workers", "/ui/schedules", "/ui/webhooks", "/ui/batches", "/ui/batches/{batch}",
    "/ui/submit", "/ui/keys", "/ui/audit",
)  # fmt: skip
"""Of the dashboard, each whole, without its style sheet and script."""

REQUESTS = [
    Asked("POST /jobs", "/jobs"),
    Asked("GET /jobs/{id}", "/jobs/{job}"),
    Asked("GET /batches/{id}", "/batches/{batch}", 20),
    Asked("GET /jobs?status=queued", "/jobs?status=queued", 100),
    Asked("GET /jobs?status=cancelled", "/jobs?status=cancelled", 100),
    Asked("GET /jobs?type=, a rare one", f"/jobs?type={RARE}", 100),
    Asked("GET /jobs?tag=, an unknown one", "/jobs?tag=unknown", 100),
    Asked("GET /queues", "/queues", 30),
    Asked("GET /queues/{name}", "/queues/default", 30),
    Asked("GET /dead-letters", "/dead-letters", 100),
    Asked("GET /dead-letters?group=error", "/dead-letters?group=error", 50),
    Asked("GET /stats, an hour", "/stats", 100),
    Asked("GET /stats, a day of one queue, by the minute", "/stats?queue=queue-7&since={a_day_ago}", 300),
    Asked("GET /stats, 14 days", "/stats?since={two_weeks_ago}", 300),
    Asked("GET /status", "/status", 100),
    Asked("GET /workers", "/workers", 100),
    *(Asked(f"page {path}", path, 300) for path in PAGES),
]
"""In a path, `{job}` is a job that waits, `{batch}` the ledger's batch, and the others are times."""


async def ask(port: int, batch: UUID | None) -> dict[str, Taken]:
    """Send each request `REPEATS` times; by name. Without a `batch` a small one is submitted first."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        names = {"job": await _submitted(client, "/jobs", NOOP), **_times()}
        names["batch"] = str(batch or await _submitted(client, "/batches", {"jobs": [NOOP]}))
        return {one.name: await _repeated(client, one.path.format(**names)) for one in REQUESTS}


def _times() -> dict[str, str]:
    now = datetime.now(UTC)
    days = {"a_day_ago": 1, "two_weeks_ago": 14}
    return {name: f"{now - timedelta(days=count, minutes=-1):%Y-%m-%dT%H:%M:%SZ}" for name, count in days.items()}


async def _submitted(client: httpx.AsyncClient, path: str, body: object) -> str:
    return str((await client.post(path, json=body)).raise_for_status().json()["id"])


async def _repeated(client: httpx.AsyncClient, path: str) -> Taken:
    taken, worst = [], 0
    for _ in range(REPEATS):
        start = time.perf_counter()
        answer = await (client.post(path, json=NOOP) if path == "/jobs" else client.get(path))
        taken.append((time.perf_counter() - start) * 1000)
        worst = max(worst, answer.status_code)
    return Taken(worst, median(taken), max(taken))


def rows(full: Mapping[str, Taken], empty: Mapping[str, Taken]) -> list[Row]:
    """The full ledger's figures beside the empty one's."""
    return [_row(one, full[one.name], empty[one.name]) for one in REQUESTS]


def _row(one: Asked, full: Taken, empty: Taken) -> Row:
    goal = one.goal or empty.median * FLAT
    met = full.status < 400 and full.median <= goal
    return Row(f"{one.name}, ms", f"{full}; empty {empty}", f"<= {goal:.0f}" if one.goal else f"<= {FLAT:g} x", met)
