"""GET /stats: what is counted, for whom, for how long it is kept, and in how many rows."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.monitoring.statistics import ALL, OTHERS
from accepted.services.monitoring.statistics import Measurements
from accepted.storage.db.engine import transaction
from accepted.storage.monitoring import statistics
from accepted.storage.monitoring.statistics import MOST_OF_TENANT, MOST_SERIES
from accepted_worker.scheduler.ending import Rescuer
from accepted_worker.scheduler.housekeeping import Sampler
from tests.support.clients.client import Client, check_problem
from tests.support.ledger.jobs import claim, put
from tests.support.ledger.sql import do, rows
from tests.support.service.http_app import HttpApp
from tests.support.service.in_process_worker import working
from tests.support.waiting import until


async def charted(client: Client, query: str = "") -> list[dict[str, Any]]:
    answer = await client.get(f"/stats{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["series"]
    return found


async def total(client: Client, query: str = "") -> dict[str, Any]:
    """The counts of all points together; times and depths of the last point that has them."""
    found: dict[str, Any] = {"failed": {}}
    for point in await charted(client, query):
        for name, value in point.items():
            if name in {"accepted", "started", "succeeded"}:
                found[name] = found.get(name, 0) + value
            elif name == "failed":
                found["failed"] |= value
            elif value is not None:
                found[name] = value
    return found


async def add(engine: AsyncEngine, *series: tuple[str, str, str], **counts: float) -> None:
    async with transaction(engine) as conn:
        await statistics.add(conn, dict.fromkeys(series, counts))
        await conn.commit()


async def age(engine: AsyncEngine, seconds: float) -> None:
    """All minutes lie so much further in the past."""
    await do(engine, "UPDATE statistics SET at = at - :s * interval '1 second' WHERE span = 60", s=seconds)


async def roll_up(engine: AsyncEngine) -> None:
    async with transaction(engine) as conn:
        while await statistics.roll_up(conn):
            pass
        await conn.commit()


async def test_jobs_are_counted_from_the_submission_to_the_end(
    app: HttpApp, engine: AsyncEngine, client: Client, database_url: str
) -> None:
    """Through the API, a worker, and a scheduler's sampler; another tenant's jobs are seen by an operator alone."""
    other = await app.client("another", "jobs:read", "jobs:write")
    for _ in range(3):
        await client.submit("sleep", {"seconds": 0.1}, queue="q")
    await put(engine, 1, type="sleep", payload='{"seconds": "many"}')
    await other.submit("sleep", {"seconds": 0.1}, queue="q")
    assert await Sampler(engine).run_once() > 0
    async with working(engine, PostgresBroker(engine, database_url)):
        await until(lambda: _none_waits(engine), 30, "the end of all attempts")
    await app.state.measurements.report(engine)
    own = await total(await app.client("t", "jobs:read"), "?queue=q")
    assert (own["accepted"], own["started"], own["succeeded"], own["failed"]) == (3, 4, 3, {"invalid": 1})
    assert own["depth"] == 4
    assert own["oldest"] < 60
    assert 0.03 <= own["run_p99"] < 3
    assert own["wait_p50"] < 60
    everyone = await total(client)
    assert (everyone["accepted"], everyone["started"], everyone["depth"]) == (4, 5, 5)
    assert (await total(client, "?queue=q&type=sleep"))["succeeded"] == 4
    assert "depth" not in await total(client, "?type=sleep"), "nobody counts what waits by type"
    assert (await total(other, "?type=sleep"))["started"] == 1


async def _none_waits(engine: AsyncEngine) -> bool:
    return not await rows(engine, "SELECT 1 FROM jobs WHERE status IN ('queued', 'running')")


async def test_leases_and_crashes_are_counted(app: HttpApp, engine: AsyncEngine, client: Client) -> None:
    for _ in range(2):
        await client.submit("noop", queue="q")
    (item,) = (await client.http.post("/queues/q/lease", json={})).json()["items"]
    assert (await client.http.post(f"/leases/{item['lease']}/fail", json={"class": "timeout"})).status_code < 300
    await claim(engine)
    crashes = Measurements()
    rescuer = Rescuer(engine, PostgresBroker(engine, ""), 0.3, crashes)
    await until(rescuer.run_once, 30, "the rescue of the attempt without a worker")
    for each in (app.state.measurements, crashes):
        await each.report(engine)
    found = await total(client, "?queue=q&type=noop")
    assert (found["accepted"], found["started"], found["failed"]) == (2, 1, {"timeout": 1, "crashed": 1})


async def test_the_wait_of_a_job_that_waited_for_others_is_not_known(
    app: HttpApp, engine: AsyncEngine, client: Client
) -> None:
    jobs = [{"type": "noop", "queue": "q", "ref": "a"}, {"type": "noop", "queue": "q", "ref": "b", "depends_on": ["a"]}]
    assert (await client.http.post("/workflows", json={"jobs": jobs})).status_code == 202
    for _ in jobs:
        (item,) = (await client.http.post("/queues/q/lease", json={})).json()["items"]
        assert (await client.http.post(f"/leases/{item['lease']}/complete", json={})).status_code == 200
    await app.state.measurements.report(engine)
    found = await total(client, "?queue=q&type=noop")
    assert (found["started"], found["succeeded"], found.get("wait_p50")) == (2, 2, None)


async def test_a_wait_is_known_where_the_job_waited_for_nothing_else(engine: AsyncEngine) -> None:
    await put(engine, 1)
    (known,) = await claim(engine)
    assert known.waited is not None
    in_line = msgspec.structs.replace(known.job, ordering_key="k")
    others: tuple[dict[str, Any], ...] = ({"crashes": 1}, {"in_workflow": True}, {"job": in_line})
    assert [msgspec.structs.replace(known, **other).waited for other in others] == [None, None, None]


async def test_points_and_steps(engine: AsyncEngine, client: Client) -> None:
    await add(engine, ALL, accepted=2, run_7=1)
    await age(engine, 600)
    await add(engine, ALL, accepted=3, depth=0)
    points = await charted(client)
    assert len(points) in {60, 61}
    assert [point["accepted"] for point in points if point["accepted"]] == [2, 3]
    times = [datetime.fromisoformat(point["at"]) for point in points]
    assert {after - before for before, after in itertools.pairwise(times)} == {timedelta(minutes=1)}
    assert (points[-1]["depth"], points[-2]["depth"], points[-2]["run_p50"]) == (0, None, None)
    since = quote((datetime.now(UTC) - timedelta(minutes=30)).isoformat())
    coarse = await charted(client, f"?since={since}&step=3600")
    assert sum(point["accepted"] for point in coarse) == 5
    assert len(coarse) in {1, 2}


@pytest.mark.parametrize(
    ("days", "step", "status"), [(1, 60, 200), (2, 60, 200), (14, 600, 422), (14, 900, 200), (400, 86400, 200)]
)
async def test_the_number_of_points_is_bounded(client: Client, days: int, step: int, status: int) -> None:
    """Two days of minutes are two days of ten minutes: older minutes are not kept."""
    since = quote((datetime.now(UTC) - timedelta(days=days)).isoformat())
    answer = await client.get(f"/stats?since={since}&step={step}")
    assert answer.status_code == status
    if status == 422:
        assert "/step" in check_problem(answer, 422)["errors"][0]["pointer"]
    else:
        assert answer.json()["step"] >= step
        assert len(answer.json()["series"]) <= 1500
    assert len(await charted(client, f"?since={since}")) <= 1500


@pytest.mark.parametrize("query", ["step=59", "step=1e3", "since=yesterday", "queue=A", "type=%00", "status=queued"])
async def test_bad_queries(client: Client, query: str) -> None:
    check_problem(await client.get(f"/stats?{query}"), 422)


async def test_old_minutes_become_ten_minutes_and_go(engine: AsyncEngine, client: Client) -> None:
    series = ("t", "q", "noop")
    await add(engine, ALL, series, accepted=1, depth=7)
    for _ in range(20):
        await age(engine, 60)
        await add(engine, ALL, series, accepted=1, depth=2)
    await age(engine, 26 * 3600)
    before = await total(client, f"?since={quote((datetime.now(UTC) - timedelta(days=2)).isoformat())}")
    await roll_up(engine)
    left = await rows(engine, "SELECT span, accepted, depth FROM statistics")
    assert {row["span"] for row in left} == {600}
    assert len(left) in {6, 8}
    assert sum(row["accepted"] for row in left) == 42
    assert max(row["depth"] for row in left) == 7
    assert await total(client, f"?since={quote((datetime.now(UTC) - timedelta(days=2)).isoformat())}") == before
    await do(engine, "UPDATE statistics SET at = at - interval '13 days'")
    await roll_up(engine)
    assert not await rows(engine, "SELECT 1 FROM statistics")
    assert not await rows(engine, "SELECT 1 FROM statistic_series")


async def test_the_number_of_series_is_bounded(engine: AsyncEngine) -> None:
    """A tenant that names many queues takes nothing from others, and its sums stay true."""
    await add(engine, *(("greedy", f"q{number}", "noop") for number in range(MOST_OF_TENANT + 50)), accepted=1)
    await add(engine, ("t", "q", "noop"), ("greedy", "more", "noop"), accepted=1)
    found = await rows(
        engine, "SELECT x.*, s.accepted FROM statistic_series x JOIN statistics s ON s.series = x.id ORDER BY x.id"
    )
    assert sum(row["accepted"] for row in found if row["tenant"] == "greedy") == MOST_OF_TENANT + 51
    assert sum(row["tenant"] == "greedy" for row in found) == MOST_OF_TENANT + 1
    assert [row["accepted"] for row in found if row["queue"] == OTHERS] == [51]
    assert [row["queue"] for row in found if row["tenant"] == "t"] == ["q"]
    for tenant in range(10):
        await add(engine, *((f"t{tenant}", f"q{number}", "noop") for number in range(40)), accepted=1)
    named = await rows(engine, "SELECT 1 FROM statistic_series WHERE queue <> :others", others=OTHERS)
    assert len(named) == MOST_SERIES


async def test_several_schedulers_count_once(engine: AsyncEngine, client: Client) -> None:
    await put(engine, 5)
    for sampler in (Sampler(engine), Sampler(engine)):
        await sampler.run_once()
    assert (await total(client))["depth"] == 5
