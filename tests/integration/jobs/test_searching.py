"""GET /jobs as a search: every filter finds what it says, also in steps that stop before they have seen everything."""

import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.ids import AFTER_ALL, new_id
from accepted.services.jobs import searching as service
from accepted.services.keys import create
from accepted.storage.db.engine import reading
from accepted.storage.jobs import searching
from accepted.storage.jobs.job_filter import JobFilter
from tests.support.clients.client import Client
from tests.support.clients.searches import at_hour, ids, newest_first, pages
from tests.support.ledger.dead_letters import ended_as, fail, from_now, run_again
from tests.support.ledger.jobs import apply, claim, put, running_attempt, the_job
from tests.support.ledger.sql import do, rows
from tests.support.service.live_api import api
from tests.support.service.running_service import accepted

STEP = 7


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a few rows."""
    monkeypatch.setattr(service, "FIRST_STEP", STEP)
    monkeypatch.setattr(service, "LARGEST_STEP", STEP)


@pytest.fixture
def one_step(small_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request has the time for one step only."""
    monkeypatch.setattr(service, "SEARCH_SECONDS", 0.0)


async def all_statuses(engine: AsyncEngine) -> dict[str, UUID]:
    """A job of each status; the running one has failed before, and so has the retrying one."""
    made = {status: await ended_as(engine, status) for status in ("succeeded", "cancelled", "expired", "failed")}
    await put(engine, 2)
    failing, going_on = await claim(engine)
    made["retrying"], made["running"] = failing.job.id, going_on.job.id
    timeout = transitions.failed(running_attempt(failing), FailureClass.TIMEOUT, "slow", 0.0)
    assert (await apply(engine, timeout)) == [True]
    (made["queued"],) = await put(engine)
    (made["scheduled"],) = await put(engine, delay=3600.0)
    (made["blocked"],) = await put(engine, blockers=1)
    for status, id in made.items():
        assert (await the_job(engine, id))["status"] == status
    return made


async def test_statuses(client: Client, engine: AsyncEngine) -> None:
    made = await all_statuses(engine)
    for status, id in made.items():
        assert ids(await pages(client, status=status)) == [id], status
    for several in (
        ("queued", "running"), ("running", "retrying", "blocked", "scheduled", "queued"), ("failed", "running"),
        ("succeeded", "cancelled"), tuple(made),
    ):  # fmt: skip
        found = await pages(client, status=",".join(several))
        assert ids(found) == newest_first(*(made[status] for status in several))
        assert [page["complete"] for page in found] == [True]


async def test_the_filters(client: Client, engine: AsyncEngine) -> None:
    made = await all_statuses(engine)
    assert ids(await pages(client, error_class="invalid")) == [made["failed"]]
    assert ids(await pages(client, error_class="timeout", status="retrying,failed")) == [made["retrying"]]
    assert ids(await pages(client, error_class="auth")) == []

    (tagged,) = await put(engine, tags=["red", "blue"], metadata='{"customer": "7", "a]b": "x"}', type="sleep")
    (other,) = await put(engine, tags=["red"], metadata='{"customer": "8"}')
    assert ids(await pages(client, tag="red")) == [other, tagged]
    assert ids(await pages(client, tag="blue", status="queued")) == [tagged]
    assert ids(await pages(client, type="sleep")) == [tagged]
    assert ids(await pages(client, **{"metadata[customer]": "8"})) == [other]
    assert ids(await pages(client, **{"metadata[customer]": "7", "metadata[a]b]": "x", "limit": 1})) == [tagged]
    assert ids(await pages(client, **{"metadata[customer]": "7", "metadata[a]b]": "y"})) == []


async def test_the_family_of_a_job(client: Client, engine: AsyncEngine) -> None:
    root, plain = await put(engine, 2)
    child, sibling = await put(engine, 2, parent_id=root, root_id=root, depth=1)
    (grandchild,) = await put(engine, parent_id=child, root_id=root, depth=2)
    assert ids(await pages(client, root_id=root)) == newest_first(root, child, sibling, grandchild)
    assert ids(await pages(client, root_id=root, limit=1)) == newest_first(root, child, sibling, grandchild)
    assert ids(await pages(client, root_id=child)) == [child], "it is not the root of its own children"
    assert ids(await pages(client, root_id=plain)) == [plain]
    assert ids(await pages(client, parent_id=root)) == newest_first(child, sibling)
    assert ids(await pages(client, parent_id=child)) == [grandchild]
    assert ids(await pages(client, parent_id=child, root_id=child)) == []
    assert ids(await pages(client, parent_id=grandchild)) == []
    await do(engine, "DELETE FROM jobs WHERE id = :id", id=child)
    assert ids(await pages(client, parent_id=child)) == [grandchild], "also without the parent"


async def test_times(client: Client, engine: AsyncEngine) -> None:
    old, new = await fail(engine, 2)
    (waiting,) = await put(engine)
    await do(engine, "UPDATE jobs SET finished_at = now() - interval '1 hour' WHERE id = :id", id=old)
    await do(engine, "UPDATE jobs SET created_at = now() - interval '2 hours' WHERE id = :id", id=old)
    recently = from_now(-1800).isoformat()
    assert ids(await pages(client, finished_after=recently)) == [new]
    assert ids(await pages(client, finished_before=recently)) == [old]
    assert ids(await pages(client, finished_after=recently, finished_before=recently)) == []
    assert ids(await pages(client, created_after=recently)) == newest_first(waiting, new)
    assert ids(await pages(client, created_before=recently)) == [old]
    assert ids(await pages(client, created_after=from_now(-9000).isoformat(), status="failed")) == [new, old]


async def test_a_job_that_was_created_long_after_its_id_was_made(client: Client, engine: AsyncEngine) -> None:
    """A member of an upload, whose line came an hour before the commit, and a child of an attempt that took a day."""
    moments = {hours: at_hour(hours) for hours in (-1, -24)}
    (member,) = await put(engine, id=moments[-1])
    after = from_now(-60).isoformat()
    assert ids(await pages(client, created_after=after)) == [member]
    (child,) = await put(engine, id=moments[-24], parent_id=new_id(), root_id=new_id(), depth=1)
    assert ids(await pages(client, created_after=after)) == [member, child]


async def test_another_tenant_finds_nothing(app: Any, engine: AsyncEngine) -> None:
    made = await all_statuses(engine)
    (batched,) = await put(engine, batch_id=new_id())
    (child,) = await put(engine, root_id=made["queued"], parent_id=made["queued"])
    other = await app.client("another")
    batch = (await the_job(engine, batched))["batch_id"]
    queries: list[dict[str, Any]] = [{"status": status} for status in made]
    for query in [*queries, {}, {"batch_id": batch}, {"root_id": made["queued"]}, {"parent_id": made["queued"]}]:
        assert ids(await pages(other, **query)) == [], (query, child)


@pytest.mark.usefixtures("small_steps")
async def test_a_search_ends_after_enough_rows_though_it_has_time(
    client: Client, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ENOUGH", 2 * STEP)
    (wanted,) = await put(engine, type="sleep")
    await put(engine, 3 * STEP)
    found = await pages(client, type="sleep")
    assert [(len(page["items"]), page["complete"]) for page in found] == [(0, False), (1, True)]
    assert ids(found) == [wanted]


@pytest.mark.usefixtures("one_step")
@pytest.mark.parametrize(
    "query",
    [{}, {"type": "rare"}, {"tag": "rare"}, {"status": "queued"}, {"status": "failed,succeeded"}, {"limit": 2},
     {"type": "rare", "include": "payload,result"}, {"include": "payload", "limit": 3}],
)  # fmt: skip
async def test_a_search_that_stops_goes_on_by_next(client: Client, engine: AsyncEngine, query: dict[str, Any]) -> None:
    made = await put(engine, 3, type="rare", tags=["rare"])
    made += await put(engine, 4 * STEP)
    made += await put(engine, 2, type="rare", tags=["rare"])
    rare = made[:3] + made[-2:]
    await fail(engine, STEP, queue="failing")
    found = await pages(client, **query)
    jobs = await rows(engine, "SELECT id, status FROM jobs ORDER BY id DESC")
    statuses = query.get("status", "queued,failed,succeeded").split(",")
    wanted = rare if "rare" in query.values() else [job["id"] for job in jobs if job["status"] in statuses]
    assert ids(found) == newest_first(*wanted)
    stopped = [page for page in found if not page["complete"]]
    assert all(page["next"] is not None for page in stopped)
    assert found[-1]["complete"]
    assert len(stopped) >= 3 or "limit" in query, "a full page is complete"
    assert any(page["items"] == [] for page in stopped) or wanted is not rare, "a page may be empty"


@pytest.mark.usefixtures("one_step")
async def test_jobs_that_come_and_end_meanwhile(client: Client, engine: AsyncEngine) -> None:
    made = await put(engine, 5 * STEP)
    stay = set(await put(engine, 2 * STEP, queue="stay"))
    late = set(await put(engine, 3, queue="late"))
    found: list[UUID] = []
    cursor: dict[str, str] = {}
    pages_seen = 0
    while not pages_seen or cursor:
        page = (await client.get("/jobs", params={"status": "queued", "limit": 4} | cursor)).json()
        found += ids([page])
        assert {job["status"] for job in page["items"]} <= {"queued"}
        cursor = {} if page["next"] is None else {"cursor": page["next"]}
        pages_seen += 1
        await put(engine, 2, queue="later")
        for one in await claim(engine, 2):
            await apply(engine, transitions.succeeded(running_attempt(one), "null"))
    assert found == newest_first(*found), "in order, and none twice"
    assert len(set(found)) == len(found)
    assert stay | late <= set(found) <= stay | late | set(made)


async def test_failed_jobs_whose_letters_were_discarded(client: Client, engine: AsyncEngine) -> None:
    kept, discarded, retried = await fail(engine, 3)
    for id in (discarded, retried):
        answer = await client.http.post("/dead-letters/discard", json={"ids": [str(id)]})
        assert answer.json() == {"matched": 1, "discarded": 1}
    assert ids(await narrowly(engine, "failed")) == newest_first(kept, discarded, retried)
    assert (await client.http.post(f"/jobs/{retried}/retry")).status_code == 202
    assert ids(await narrowly(engine, "failed")) == newest_first(kept, discarded)
    assert [row["job_id"] for row in await rows(engine, "SELECT job_id FROM discarded_letters")] == [discarded]
    await run_again(engine)
    assert ids(await narrowly(engine, "failed")) == newest_first(kept, discarded, retried)
    assert ids(await pages(client, status="failed")) == newest_first(kept, discarded, retried)
    await client.http.post("/dead-letters/discard", json={"ids": [str(retried)]})
    assert ids(await narrowly(engine, "failed")) == newest_first(kept, discarded, retried)


async def narrowly(engine: AsyncEngine, *statuses: str) -> list[dict[str, Any]]:
    """What one step finds where jobs of these statuses are kept."""
    async with reading(engine) as conn:
        plan = await searching.plan(conn, "t", JobFilter(statuses=list(statuses)))
        step = await searching.step(conn, plan, plan.narrow, AFTER_ALL, 100, 100)
    return [{"items": [{"id": str(job.id)} for job in step.found]}]


@pytest.mark.parametrize(
    "statuses", [["queued"], ["running"], ["failed"], ["queued", "running", "scheduled"], ["failed", "queued"]]
)
async def test_what_waits_and_runs_is_found_where_it_is_kept(engine: AsyncEngine, statuses: list[str]) -> None:
    """Step by step, without reading what has ended; others' jobs are in between."""
    for _ in range(5):
        await put(engine, STEP, queue="theirs", tenant="another")
        await put(engine, STEP)
        await put(engine, 3, delay=60.0)
        await claim(engine, 3)
        await claim(engine, 2, queue="theirs")
        await fail(engine, STEP, queue="failing")
        await fail(engine, STEP, queue="failing", tenant="another")
    jobs = await rows(engine, "SELECT id, status FROM jobs WHERE tenant = 't' ORDER BY id DESC")
    found, steps = [], 0
    async with reading(engine) as conn:
        plan = await searching.plan(conn, "t", JobFilter(statuses=statuses))
        before: UUID | None = AFTER_ALL
        while before is not None:
            step = await searching.step(conn, plan, plan.narrow, before, STEP, 100)
            found += step.found
            before, steps = step.reached, steps + 1
    assert [job.id for job in found] == [job["id"] for job in jobs if job["status"] in statuses]
    assert (steps > 5) == (statuses != ["running"])


@pytest.mark.usefixtures("small_steps")
async def test_more_leases_than_a_step_reads(
    client: Client, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then running jobs are found among all jobs."""
    await put(engine, 3 * STEP)
    claimed = [one.job.id for one in await claim(engine, STEP)]
    monkeypatch.setattr(searching, "MOST_LEASES", 2)
    assert ids(await pages(client, status="running")) == newest_first(*claimed)
    assert set(claimed) < set(ids(await pages(client, status="running,queued")))


@pytest.mark.usefixtures("one_step")
async def test_the_command_line_goes_on(engine: AsyncEngine, database_url: str) -> None:
    wanted = newest_first(*await put(engine, 3, queue="rare"))
    await put(engine, 2 * STEP)
    async with api(database_url) as one:
        terminal = {"ACCEPTED_URL": one.url, "ACCEPTED_API_KEY": (await create(engine, "t", "tests", ["jobs:read"]))[1]}
        listing = "jobs", "list", "--queue", "rare", "--json"
        whole = await accepted(*listing, env=terminal)
        first = await accepted(*listing, "--limit", "1", env=terminal)
    assert ids([json.loads(whole.out)]) == wanted
    assert "not everything" in whole.err
    assert ids([json.loads(first.out)]) == wanted[:1]
