"""Workflows over HTTP: what is refused, what is answered, and how they run with a worker in this process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, InvalidJob, job
from accepted.broker.postgres import PostgresBroker
from accepted_worker.handlers.noop import noop
from accepted_worker.scheduler import base
from accepted_worker.scheduler.batches import BatchLoop
from tests.support.clients.client import check_problem
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.service.app_without_auth import application
from tests.support.service.worker_with_handlers import WorkerWithHandlers, worker_with_handlers
from tests.support.waiting import until

PATIENCE = 30.0


@pytest.fixture
async def client(engine: AsyncEngine, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with application(engine, database_url) as client:
        yield client


def node(ref: str, *depends_on: str, **fields: Any) -> dict[str, Any]:
    return {"type": "noop", "queue": "q", "ref": ref, "depends_on": list(depends_on), **fields}


async def post(client: httpx.AsyncClient, *jobs: Any, key: str | None = None, **fields: Any) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return await client.post("/workflows", json={"jobs": list(jobs), **fields}, headers=headers)


REFUSED: dict[str, tuple[list[Any], str, str]] = {
    "no ref": ([{"type": "noop"}], "/jobs/0/ref", "required"),
    "an empty ref": ([node("")], "/jobs/0/ref", ""),
    "a ref with a line end": ([node("a\nb")], "/jobs/0/ref", ""),
    "a ref that is a number": ([node("a") | {"ref": 1}], "/jobs/0/ref", ""),
    "one ref twice": ([node("a"), node("a")], "/jobs/1/ref", "number 0"),
    "depends_on no list": ([node("a") | {"depends_on": "b"}], "/jobs/0/depends_on", ""),
    "depends_on a number": ([node("a") | {"depends_on": [1]}], "/jobs/0/depends_on/0", ""),
    "depends_on null": ([node("a") | {"depends_on": None}], "/jobs/0/depends_on", ""),
    "an unknown ref": ([node("load"), node("b", "laod")], "/jobs/1/depends_on/0", 'did you mean "load"?'),
    "a cycle": ([node("a", "c"), node("b", "a"), node("c", "b")], "/jobs/0/depends_on/0", "a needs c needs b needs a"),
    "itself": ([node("a", "a")], "/jobs/0/depends_on/0", "a needs a"),
    "an unknown field": ([node("a") | {"depend_on": []}], "/jobs/0/depend_on", 'did you mean "depends_on"?'),
    "a wrong job": ([node("a"), node("b", "a", priority=10)], "/jobs/1/priority", ""),
    "a place in a line": ([node("a", ordering_key="k")], "/jobs/0/ordering_key", "not allowed"),
    "a place of its own": ([node("a", unique={"key": "k", "until": "started"})], "/jobs/0/unique", "not allowed"),
    "no object": (["a"], "/jobs/0", ""),
    "none": ([], "/jobs", ""),
}


@pytest.mark.parametrize(("jobs", "pointer", "says"), REFUSED.values(), ids=REFUSED.keys())
async def test_refused(client: httpx.AsyncClient, engine: AsyncEngine, jobs: Any, pointer: str, says: str) -> None:
    check_problem(await post(client, *jobs), 422, pointer, says)
    assert await rows(engine, "SELECT 1 FROM jobs") == await rows(engine, "SELECT 1 FROM batches") == []


async def test_what_is_answered(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    jobs = [node("report", "load", "extract", "load"), node("extract"), node("load", "extract")]
    answer = await post(client, *jobs, key="k")
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"/batches/{body['id']}"
    assert (body["total"], body["counts"], body["finished"]) == (3, {"queued": 1, "blocked": 2}, False)
    assert [(job["ref"], job["status"], job["depends_on"]) for job in body["jobs"]] == [
        ("extract", "queued", []),
        ("load", "blocked", ["extract"]),
        ("report", "blocked", ["extract", "load"]),
    ]
    assert (await client.get(f"/batches/{body['id']}")).json() == body
    report = (await client.get(f"/jobs/{body['jobs'][2]['id']}")).json()
    assert (report["status"], report["batch_id"]) == ("blocked", body["id"])

    again = await post(client, *jobs, key="k")
    assert (again.status_code, again.headers["idempotent-replayed"], again.json()) == (202, "true", body)
    check_problem(await post(client, *jobs[:2], key="k"), 422)
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 3
    check_problem(await client.get(f"/batches/{uuid4()}"), 404)


async def test_a_job_that_waits_is_cancelled_with_all_behind_it(client: httpx.AsyncClient) -> None:
    body = (await post(client, node("a", delay=60), node("b", "a"), node("c", "b"), node("d", "a"))).json()
    ids = {job["ref"]: job["id"] for job in body["jobs"]}
    assert (await client.post(f"/jobs/{ids['b']}/cancel")).status_code == 202
    shown = (await client.get(f"/batches/{body['id']}")).json()
    assert shown["counts"] == {"scheduled": 1, "blocked": 1, "cancelled": 2}
    error = (await client.get(f"/jobs/{ids['c']}")).json()["error"]
    assert (error["class"], error["message"]) == ("cancelled", f"needed job b {ids['b']} which is cancelled")
    refused = await client.post(f"/jobs/{ids['c']}/retry")
    assert ids["b"] in check_problem(refused, 409)["detail"]
    assert (await client.post(f"/jobs/{ids['b']}/retry")).json()["status"] == "blocked"
    shown = (await client.get(f"/batches/{body['id']}")).json()
    assert shown["counts"] == {"scheduled": 1, "blocked": 3}


async def test_ten_thousand_of_which_one_waits_for_all(client: httpx.AsyncClient) -> None:
    refs = [f"r{n}" for n in range(9_999)]
    answer = await post(client, node("end", *refs), *(node(ref) for ref in refs))
    assert answer.status_code == 202, answer.text
    assert answer.json()["counts"] == {"queued": 9_999, "blocked": 1}
    assert len(answer.json()["jobs"][-1]["depends_on"]) == 9_999
    check_problem(await post(client, *(node(str(n)) for n in range(10_001))), 422, "/jobs")


async def ended(client: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    async def finished() -> dict[str, Any] | None:
        body: dict[str, Any] = (await client.get(f"/batches/{batch_id}")).json()
        return body if body["finished"] else None

    return await until(finished, PATIENCE, "the end of the workflow")


@job("gives", queue="q")
async def gives(payload: dict[str, Any], ctx: Context) -> object:
    """The value of its payload plus the results of its dependencies."""
    given = ctx.results
    assert given is not ctx.results, "each step reads a copy of its own"
    return payload["value"] + sum(given.values())


@job("gives.thread", queue="q")
def gives_in_a_thread(payload: dict[str, Any], ctx: Context) -> object:
    """Their names, as a plain function; the dict is the same on an event loop of its own, and in an async step."""

    async def names() -> list[str]:
        return sorted(ctx.results)

    assert asyncio.run(names()) == ctx.step("names", names) == sorted(ctx.results)
    return sorted(ctx.results)


@job("fails", queue="q")
async def fails(payload: dict[str, Any], ctx: Context) -> None:
    """Fails without a retry on the first attempt."""
    if ctx.job.attempt == 1:
        raise InvalidJob("no")


@pytest.fixture
async def shop(
    client: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker, database_url: str
) -> AsyncIterator[WorkerWithHandlers]:
    """The worker of these handlers, and the loop that adds up the ends of batches."""
    async with worker_with_handlers(engine, database_url, gives, gives_in_a_thread, fails, noop) as shop:
        adding = asyncio.create_task(base.run([BatchLoop(engine, broker, PollConnection(engine))]))
        yield shop
        adding.cancel()
        await asyncio.wait([adding])


@pytest.mark.usefixtures("shop")
async def test_results_are_handed_on(client: httpx.AsyncClient) -> None:
    def sums(ref: str, value: int, *depends_on: str) -> dict[str, Any]:
        return node(ref, *depends_on, type="gives", payload={"value": value})

    await until(lambda: _known(client, "gives"), PATIENCE, "the types")
    jobs = [sums("a", 1), sums("b", 10, "a"), sums("c", 100, "a"), sums("d", 1000, "b", "c")]
    answer = await post(
        client, *jobs, node("e", "d", "a", type="gives.thread"), node("f", "a", "e", type="gives.thread")
    )
    body = await ended(client, answer.json()["id"])
    assert body["counts"] == {"succeeded": 6}
    results = {job["ref"]: (await client.get(f"/jobs/{job['id']}")).json()["result"] for job in body["jobs"]}
    assert results == {"a": 1, "b": 11, "c": 101, "d": 1112, "e": ["a", "d"], "f": ["a", "e"]}


@pytest.mark.usefixtures("shop")
async def test_a_failed_member_ends_the_rest_and_its_retry_resumes_it(client: httpx.AsyncClient) -> None:
    await until(lambda: _known(client, "fails"), PATIENCE, "the types")
    answer = await post(client, node("a"), node("b", "a", type="fails"), node("c", "b"), node("d", "c", "a"))
    body = await ended(client, answer.json()["id"])
    assert body["counts"] == {"succeeded": 1, "failed": 1, "cancelled": 2}
    (failed,) = [job["id"] for job in body["jobs"] if job["status"] == "failed"]
    assert (await client.post(f"/jobs/{failed}/retry")).status_code == 202
    assert not (await client.get(f"/batches/{body['id']}")).json()["finished"]
    assert (await ended(client, body["id"]))["counts"] == {"succeeded": 4}


@pytest.mark.usefixtures("shop")
async def test_what_a_retry_resumes_does_not_hang_on_the_words_of_an_error(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    """The texts are exchanged: c was cancelled for its need, d by a client."""
    await until(lambda: _known(client, "fails"), PATIENCE, "the types")
    answer = await post(client, node("a", delay=3600), node("b", "a", type="fails"), node("c", "b"), node("d", "b"))
    ids = {job["ref"]: job["id"] for job in answer.json()["jobs"]}
    assert (await client.post(f"/jobs/{ids['d']}/cancel")).status_code == 202
    await do(engine, "UPDATE outbox SET published = true, due_at = now() WHERE job_id = :id", id=UUID(ids["a"]))
    await ended(client, answer.json()["id"])
    error = "json_build_object('class', 'cancelled', 'message', CAST(:words AS text))"
    words = f"UPDATE jobs SET error = {error} WHERE id = :id"
    await do(engine, words, words="whatever", id=UUID(ids["c"]))
    await do(engine, words, words=f"needed job b {ids['b']} which is failed", id=UUID(ids["d"]))
    assert (await client.post(f"/jobs/{ids['b']}/retry")).status_code == 202
    assert (await ended(client, answer.json()["id"]))["counts"] == {"succeeded": 3, "cancelled": 1}
    assert (await client.get(f"/jobs/{ids['d']}")).json()["status"] == "cancelled"


@pytest.mark.usefixtures("shop")
async def test_on_failure_cancel_ends_every_other_member(client: httpx.AsyncClient) -> None:
    await until(lambda: _known(client, "fails"), PATIENCE, "the types")
    jobs = [node("a", type="fails"), node("later", delay=3600), node("b", "later")]
    answer = await post(client, *jobs, on_failure="cancel")
    assert (await ended(client, answer.json()["id"]))["counts"] == {"failed": 1, "cancelled": 2}


async def _known(client: httpx.AsyncClient, name: str) -> bool:
    return any(each["name"] == name for each in (await client.get("/job-types")).json()["items"])
