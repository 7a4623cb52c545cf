"""GET /jobs/{id}/attempts: pages, however many attempts a job had."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain import transitions
from tests.support.clients.client import Client, check_problem
from tests.support.ledger.jobs import apply, claim, running_attempt
from tests.support.ledger.sql import do
from tests.support.service.http_app import HttpApp

ATTEMPTS = 7


async def handed_back(engine: AsyncEngine, client: Client) -> Any:
    """A job with some attempts, as workers that stop leave them."""
    job = await client.submit("noop", queue="q")
    for _ in range(ATTEMPTS):
        (one,) = await claim(engine)
        assert await apply(engine, transitions.handed_back(running_attempt(one))) == [True]
        await do(engine, "UPDATE outbox SET published = true")
    return job


async def test_pages_follow_one_another(engine: AsyncEngine, client: Client) -> None:
    job = await handed_back(engine, client)
    whole = (await client.get(f"/jobs/{job['id']}/attempts")).json()
    assert (whole["next"], [one["attempt"] for one in whole["items"]]) == (None, list(range(1, ATTEMPTS + 1)))
    seen, path, sizes = [], f"/jobs/{job['id']}/attempts?limit=3", []
    while path:
        answer = await client.get(path)
        page = answer.json()
        seen += page["items"]
        sizes.append(len(page["items"]))
        path = answer.links["next"]["url"] if page["next"] else ""
        assert ("link" in answer.headers) == (page["next"] is not None)
    assert (seen, sizes) == (whole["items"], [3, 3, 1])


async def test_a_cursor_is_for_one_job(app: HttpApp, engine: AsyncEngine, client: Client) -> None:
    job = await handed_back(engine, client)
    other = await client.submit("noop", queue="another")
    cursor = (await client.get(f"/jobs/{job['id']}/attempts?limit=3")).json()["next"]
    check_problem(await client.get(f"/jobs/{other['id']}/attempts?cursor={cursor}"), 422, "/cursor")
    for wrong in ("limit=0", "limit=201", "limit=x", "cursor=x", "page=2"):
        check_problem(await client.get(f"/jobs/{job['id']}/attempts?{wrong}"), 422)
    check_problem(await (await app.client("another")).get(f"/jobs/{job['id']}/attempts?limit=3"), 404)
