"""Jobs found by pairs of metadata that are indexed, by the text of an error, and by the moment that they wait for."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.failures import FailureClass
from accepted.services.jobs import searching as service
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import metadata_index
from accepted_worker.scheduler.pruner import Pruner
from tests.support.clients.client import Client, check_problem
from tests.support.clients.searches import at_hour, ids, newest_first, pages
from tests.support.ledger.dead_letters import fail, from_now
from tests.support.ledger.jobs import put
from tests.support.ledger.sql import do, rows
from tests.support.service.http_app import HttpApp, http_app


@pytest.fixture
async def app(engine: AsyncEngine, database_url: str) -> AsyncIterator[HttpApp]:
    async with http_app(engine, database_url, metadata_keys="customer, order") as app:
        yield app


async def keep_keys(engine: AsyncEngine, *keys: str) -> None:
    async with transaction(engine) as conn:
        await metadata_index.keep_keys(conn, keys)
        await conn.commit()


async def test_pairs_of_indexed_keys(client: Client, engine: AsyncEngine) -> None:
    """Jobs from before the key was indexed are found without the index, later ones by it alone."""
    (old,) = await put(engine, id=at_hour(-3), metadata='{"customer": "7"}')
    await keep_keys(engine, "customer", "order")
    await do(engine, "UPDATE metadata_keys SET indexed_since = now() - interval '2 hours'")
    (new, both) = await put(engine, 2, metadata='{"customer": "7", "order": "a=b", "colour": "red"}')
    await put(engine, 3, metadata='{"customer": "70"}')
    await put(engine, 2, tenant="another", metadata='{"customer": "7"}')
    assert len(await rows(engine, "SELECT pair FROM job_metadata")) == 9, "no row of a key that is not indexed"
    of_7 = {"metadata[customer]": "7"}
    assert ids(await pages(client, **of_7)) == newest_first(old, new, both)
    assert ids(await pages(client, **of_7, limit=1)) == newest_first(old, new, both)
    assert ids(await pages(client, **of_7, **{"metadata[order]": "a=b"}, status="queued")) == newest_first(new, both)
    assert ids(await pages(client, **of_7, type="sleep")) == []

    await do(engine, "DELETE FROM job_metadata WHERE job_id = :id", id=both)
    assert ids(await pages(client, **of_7)) == newest_first(old, new), "the index alone is read where it is whole"
    await keep_keys(engine, "order")
    assert ids(await pages(client, **of_7)) == newest_first(old, new, both), "customer is not indexed any more"


async def test_another_key_is_refused(client: Client, app: HttpApp) -> None:
    answer = await client.get("/jobs?metadata[colour]=red&metadata[customer]=7")
    problem = check_problem(answer, 422, "/metadata/colour")
    assert "customer, order" in problem["errors"][0]["detail"]


async def test_rows_of_the_index_go_with_their_jobs(engine: AsyncEngine) -> None:
    await keep_keys(engine, "customer")
    await put(engine, id=at_hour(-24 * 9), metadata='{"customer": "7"}')
    await put(engine, metadata='{"customer": "7"}')
    await do(engine, "DELETE FROM outbox")
    await do(engine, "UPDATE jobs SET status = 'succeeded', finished_at = created_at")
    await do(engine, "UPDATE jobs SET finished_at = now() - interval '8 days' WHERE id < :id", id=at_hour(-24))
    assert len(await rows(engine, "SELECT job_id FROM job_metadata")) == 2
    assert await Pruner(engine, 7 * 86400, 30 * 86400).run_once() == 1
    assert len(await rows(engine, "SELECT job_id FROM job_metadata")) == 1


async def test_the_text_of_an_error(client: Client, engine: AsyncEngine) -> None:
    (refused,) = await fail(engine, message="HTTP 403: Access denied, 100 %")
    (other,) = await fail(engine, kind=FailureClass.AUTH, message="bad _token")
    assert ids(await pages(client, error_text="access DENIED")) == [refused]
    assert ids(await pages(client, error_text="0 %")) == [refused]
    assert ids(await pages(client, error_text="_")) == [other], "no wildcard"
    assert ids(await pages(client, error_text="a", error_class="auth")) == [other]
    assert ids(await pages(client, error_text="a", status="succeeded")) == []
    await client.http.post("/dead-letters/discard", json={"ids": [str(refused)]})
    assert ids(await pages(client, error_text="denied")) == [refused]


@pytest.mark.parametrize("query", [{}, {"limit": 2}, {"include": "payload"}])
async def test_what_waits_for_a_moment_the_soonest_first(
    client: Client, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, query: dict[str, Any]
) -> None:
    """Also where many wait for the same moment, and a step sees some of them."""
    at = from_now(3600)
    many = await put(engine, 9, run_at=at)
    (last,) = await put(engine, run_at=at + timedelta(seconds=1))
    (first,) = await put(engine, delay=60.0, queue="other")
    await put(engine, 3, tenant="another", run_at=at)
    await put(engine, 2)
    await put(engine, blockers=1)
    wanted = [first, *sorted(many), last]
    assert ids(await pages(client, sort="run_at", **query)) == wanted
    assert ids(await pages(client, sort="run_at", queue="other", status="scheduled", **query)) == [first]
    assert ids(await pages(client, sort="run_at", status="retrying", **query)) == []

    for name, rows_of_a_step in (("FIRST_STEP", 4), ("LARGEST_STEP", 4), ("SEARCH_SECONDS", 0.0)):
        monkeypatch.setattr(service, name, rows_of_a_step)
    found = await pages(client, sort="run_at", **query)
    assert ids(found) == wanted
    assert [page["complete"] for page in found].count(False) >= ("limit" not in query)


async def test_what_cannot_be_sorted_by_its_moment(client: Client) -> None:
    for query in ("sort=run_at&status=queued", "sort=run_at&status=scheduled,failed", "sort=id"):
        check_problem(await client.get(f"/jobs?{query}"), 422, "/sort")
    cursor = (await client.get("/jobs")).json()["next"] or "x"
    check_problem(await client.get(f"/jobs?sort=run_at&cursor={cursor}"), 422, "/cursor")
