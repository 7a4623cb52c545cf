"""DELETE /jobs/{id} and POST /jobs/delete: nothing is left of what was sent but id and times, and all counts hold."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.references import Lease
from accepted.storage.attempts import completion, logs
from accepted.storage.attempts.logs import Piece
from accepted.storage.db.engine import transaction
from accepted_worker.scheduler.pruner import Pruner
from tests.support.clients.client import Client, check_problem
from tests.support.clients.searches import at_hour, ids, pages
from tests.support.ledger.batches import accepted, finished, schedulers, seen
from tests.support.ledger.dead_letters import ended_as, fail
from tests.support.ledger.jobs import apply, claim, put, running_attempt, the_job
from tests.support.ledger.sql import do, rows
from tests.support.ledger.webhook_deliveries import delivered, listed
from tests.support.ledger.workflows import put_graph, statuses

MARKER = "Erika-Mustermann"


async def tables_with(engine: AsyncEngine, text: str) -> list[str]:
    """The tables of which a column of any kind contains the text."""
    found = await rows(engine, "SELECT tablename FROM pg_tables WHERE schemaname = 'accepted'")
    there = """
        SELECT 1 AS one FROM {} AS t
        WHERE position(:text IN CAST(t AS text)) > 0 OR position(:hex IN CAST(t AS text)) > 0
    """
    values = {"text": text, "hex": text.encode().hex()}
    return [row["tablename"] for row in found if await rows(engine, there.format(row["tablename"]), **values)]


async def test_nothing_of_it_is_left(client: Client, engine: AsyncEngine) -> None:
    """A job that failed, ran again with another payload, and succeeded; its webhook was sent twice."""
    await do(engine, "INSERT INTO metadata_keys (key) VALUES ('customer')")
    body = {
        "type": "noop", "queue": "q", "payload": {"name": MARKER}, "tags": [MARKER], "metadata": {"customer": MARKER},
        "callback_url": f"http://example.com/{MARKER}",
        "unique": {"key": MARKER, "until": "finished"}, "retry": {"max_attempts": 1},
    }  # fmt: skip
    job = (await client.post(body, idempotency_key="order-7")).json()
    await attempt(engine, lambda one: transitions.failed(one, FailureClass.INVALID, f"no {MARKER}", 0.0))
    again = await client.http.post(f"/dead-letters/{job['id']}/replay", json={"payload": {"name": f"{MARKER}!"}})
    assert again.status_code == 202
    await attempt(engine, lambda one: transitions.succeeded(one, f'{{"hello": "{MARKER}"}}'))
    await attempt(engine, lambda one: transitions.failed(one, FailureClass.TRANSIENT, MARKER, 0.0), "webhooks")
    before = await the_job(engine, UUID(job["id"]))
    assert set(await tables_with(engine, MARKER)) >= {
        "jobs",
        "attempts",
        "steps",
        "payload_edits",
        "unique_keys",
        "attempt_logs",
    }

    answer = await client.http.delete(f"/jobs/{job['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert await tables_with(engine, MARKER) == []
    assert not await rows(engine, "SELECT job_id FROM job_metadata")
    after = await the_job(engine, UUID(job["id"]))
    kept = ("id", "tenant", "status", "created_at", "run_at", "started_at", "finished_at", "attempt")
    assert [after[name] for name in kept] == [before[name] for name in kept]
    assert len(await rows(engine, "SELECT 1 AS one FROM attempts WHERE finished_at IS NOT NULL")) == 3

    for method, path in (
        ("GET", ""), ("GET", "/attempts"), ("GET", "/logs"), ("GET", "/events"), ("GET", "/explain"),
        ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", ""),
    ):  # fmt: skip
        problem = check_problem(await client.http.request(method, f"/jobs/{job['id']}{path}"), 410)
        assert "deleted" in problem["detail"]
    assert ids(await pages(client)) == ids(await pages(client, queue="webhooks")) == []
    assert await listed(client) == []
    check_problem(await client.post(body, idempotency_key="order-7"), 410)
    assert (await client.post(body)).status_code == 202, "its unique key is free"


async def attempt(engine: AsyncEngine, outcome: Any, queue: str = "q") -> None:
    """Run the next job of the queue: it logs, remembers a step, tells its progress, and ends."""
    await do(engine, "UPDATE outbox SET published = true WHERE queue = 'q'")
    (claimed,) = await claim(engine, 1, queue=queue)
    lease = Lease(claimed.job.id, claimed.job.attempt, claimed.worker_id)
    async with transaction(engine) as conn:
        await logs.append(conn, [Piece(lease, 1, 1, [f'"{MARKER}"'.encode()])])
        await completion.remember_step(conn, lease, f"step {claimed.job.attempt}", f'"{MARKER}"')
        await completion.write_progress(conn, {lease: f'{{"percent": 1, "message": "{MARKER}"}}'})
        await conn.commit()
    ending = msgspec.structs.replace(outcome(running_attempt(claimed)), traceback=MARKER, answer=f'"{MARKER}"')
    assert await apply(engine, ending) == [True]


async def test_what_has_not_finished(client: Client, engine: AsyncEngine, broker: PostgresBroker) -> None:
    """A running job stays. A waiting one is cancelled: its webhook comes, without payload, and its dependents end."""
    (running,) = await put(engine)
    await claim(engine)
    problem = check_problem(await client.http.delete(f"/jobs/{running}"), 409)
    assert "running" in problem["detail"]
    hook = f"http://example.com/{MARKER}"
    graph = await put_graph(engine, broker, {"a": "", "b": "a"}, payload=f'{{"n": "{MARKER}"}}', callback_url=hook)
    assert (await client.http.delete(f"/jobs/{graph['a']}")).status_code == 204
    assert await statuses(engine, graph) == {"a": "cancelled", "b": "cancelled"}
    assert not await rows(engine, "SELECT 1 AS one FROM outbox WHERE queue = 'q'")
    found = await rows(engine, "SELECT payload FROM jobs WHERE type = 'webhook.deliver' ORDER BY id")
    events = {row["payload"]["job_id"]: row["payload"] for row in found}
    told = msgspec.json.decode(events[str(graph["a"])]["event"])
    assert (told["type"], told["data"]["payload"], told["data"]["status"]) == ("job.cancelled", {}, "cancelled")
    assert events[str(graph["a"])]["url"] == hook
    assert MARKER in events[str(graph["b"])]["event"], "b is not deleted"
    check_problem(await client.get(f"/jobs/{graph['a']}"), 410)


@pytest.mark.parametrize("status", ["queued", "retrying", "failed", "running"])
async def test_a_webhook_on_its_way(client: Client, engine: AsyncEngine, status: str) -> None:
    """It holds the payload: it goes, too, unless it is just being sent."""
    job_id, delivery_id = await delivered(engine, status, result=f'"{MARKER}"')
    answer = await client.http.delete(f"/jobs/{job_id}")
    if status == "running":
        assert "webhook" in check_problem(answer, 409)["detail"]
        answer = await client.http.post("/jobs/delete", json={"all": True})
        assert answer.json() == {"matched": 1, "deleted": 0}
        return
    assert answer.status_code == 204
    assert await tables_with(engine, MARKER) == []
    check_problem(await client.get(f"/jobs/{delivery_id}"), 410)
    check_problem(await client.http.post(f"/webhook-deliveries/{delivery_id}/redeliver"), 410)
    assert not await rows(engine, "SELECT 1 AS one FROM outbox UNION ALL SELECT 1 AS one FROM dead_letters")


async def test_deleting_what_matches(client: Client, engine: AsyncEngine, broker: PostgresBroker) -> None:
    """The batch adds up, the groups of letters do, and the tombstones go with the retention."""
    batch = await accepted(client.http, [{"type": "noop", "queue": "q", "tags": [MARKER]} for _ in range(4)])
    one, two, *_ = await claim(engine, 4)
    await apply(engine, transitions.succeeded(running_attempt(one), f'"{MARKER}"'))
    await apply(engine, transitions.failed(running_attempt(two), FailureClass.INVALID, MARKER, 0.0))
    await fail(engine, 2, message=MARKER, tags=[MARKER], tenant="another")
    await put(engine, 2, tags=["other"])
    (waiting,) = await put(engine, tags=[MARKER], delay=60.0)

    selection = {"tag": MARKER}
    for more, answer in (({"dry_run": True}, 0), ({}, 3), ({}, None)):
        found = (await client.http.post("/jobs/delete", json=selection | more)).json()
        assert found == {"matched": 3 if answer is not None else 0, "deleted": answer or 0}, "two are running"
    assert (await the_job(engine, waiting))["status"] == "cancelled"
    assert (await seen(client.http, batch))["counts"] == {"succeeded": 1, "failed": 1, "running": 2}
    assert (await client.get("/dead-letters?group=error")).json()["items"] == []
    theirs = await rows(engine, "SELECT 1 AS one FROM jobs WHERE tenant = 'another' AND deleted_at IS NULL")
    assert len(theirs) == 2

    for open_lease in await rows(engine, "SELECT job_id FROM attempts WHERE finished_at IS NULL"):
        await do(engine, "DELETE FROM attempts WHERE job_id = :id", id=open_lease["job_id"])
        await do(
            engine, "UPDATE jobs SET status = 'succeeded', finished_at = now() WHERE id = :id", id=open_lease["job_id"]
        )
    async with schedulers(engine, broker, 1):
        assert (await finished(client.http, batch))["counts"] == {"succeeded": 3, "failed": 1}
    deleted = await ended_as(engine, "succeeded", id=at_hour(-24 * 9))
    assert (await client.http.delete(f"/jobs/{deleted}")).status_code == 204
    await do(engine, "UPDATE jobs SET finished_at = now() - interval '8 days' WHERE id = :id", id=deleted)
    assert await Pruner(engine, 7 * 86400, 30 * 86400).run_once() == 1
    check_problem(await client.get(f"/jobs/{deleted}"), 410)


async def test_deleting_and_retrying_at_once(client: Client, engine: AsyncEngine) -> None:
    """One of them comes first: a deleted job never runs again, and a job that waits again is cancelled and deleted."""
    for _ in range(10):
        (id,) = await fail(engine)
        calls = [client.http.delete(f"/jobs/{id}"), client.http.post(f"/jobs/{id}/retry")]
        answers = [answer.status_code for answer in await asyncio.gather(*calls, client.http.delete(f"/jobs/{id}"))]
        assert answers.count(204) == 1
        job = await the_job(engine, id)
        assert (job["deleted_at"] is not None, job["finished_at"] is not None) == (True, True)
        assert not await rows(engine, "SELECT 1 AS one FROM outbox WHERE job_id = :id", id=id)
