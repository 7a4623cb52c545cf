"""POST /jobs/cancel and /jobs/retry: what matches, what follows as from the single acts, races, and pieces."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.ids import new_id
from accepted.services.jobs import many
from accepted.services.jobs import searching as service
from tests.support.clients.client import Client, check_problem
from tests.support.ledger.batches import accepted, finished, schedulers
from tests.support.ledger.dead_letters import ended_as, fail, run_again
from tests.support.ledger.jobs import claim, put, the_job
from tests.support.ledger.sql import rows
from tests.support.ledger.workflows import put_graph, statuses
from tests.support.service.http_app import HttpApp

HOOK = "http://example.com/hook"


async def act(client: Client, what: str, **selection: Any) -> Any:
    answer = await client.http.post(f"/jobs/{what}", json=selection)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def told(engine: AsyncEngine) -> list[str]:
    """The jobs about which a webhook was written."""
    found = await rows(engine, "SELECT payload ->> 'job_id' AS id FROM jobs WHERE type = 'webhook.deliver'")
    return sorted(row["id"] for row in found)


async def test_cancelling_what_matches(client: Client, engine: AsyncEngine) -> None:
    waiting = await put(engine, 3, callback_url=HOOK, tags=["red"])
    waiting += await put(engine, callback_url=HOOK, delay=60.0, tags=["red"])
    (running,) = await put(engine, queue="running", tags=["red"])
    await claim(engine, queue="running")
    (theirs,) = await put(engine, tenant="another", tags=["red"])
    (other,) = await put(engine)
    done = await ended_as(engine, "succeeded", tags=["red"], queue="done")

    assert await act(client, "cancel", tag="red", dry_run=True) == {"matched": 5, "cancelled": 0}
    assert await told(engine) == []
    assert await act(client, "cancel", tag="red", status=["succeeded"]) == {"matched": 0, "cancelled": 0}
    assert await act(client, "cancel", tag="red", status="queued,running", queue="q") == {"matched": 3, "cancelled": 3}
    assert await act(client, "cancel", tag="red") == {"matched": 2, "cancelled": 2}

    for id in waiting:
        job = await the_job(engine, id)
        assert (job["status"], job["error"]["class"]) == ("cancelled", "cancelled")
    assert await told(engine) == sorted(map(str, waiting))
    assert await rows(
        engine, "SELECT 1 AS one FROM attempts WHERE job_id = :id AND cancel_requested_at IS NOT NULL", id=running
    )
    for id, status in ((running, "running"), (theirs, "queued"), (other, "queued"), (done, "succeeded")):
        assert (await the_job(engine, id))["status"] == status
    assert await act(client, "cancel", tag="red") == {"matched": 1, "cancelled": 1}, "the running one is told again"
    assert await act(client, "cancel", all=True) == {"matched": 2, "cancelled": 2}
    assert (await the_job(engine, theirs))["status"] == "queued"


async def test_a_workflow_and_a_batch_end_as_by_single_cancels(
    app: HttpApp, client: Client, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    ids = await put_graph(engine, broker, {"a": "", "b": "a"}, queue="first")
    batch = await accepted(client.http, [{"type": "noop", "queue": "first", "delay": 60}] * 3)
    (single,) = await put(engine, id=new_id(), queue="first")
    assert await act(client, "cancel", status="queued,scheduled", queue="first") == {"matched": 5, "cancelled": 5}
    assert await statuses(engine, ids) == {"a": "cancelled", "b": "cancelled"}, "b needed a"
    async with schedulers(engine, broker, 1):
        assert (await finished(client.http, batch))["counts"] == {"cancelled": 3}
    assert (await the_job(engine, single))["status"] == "cancelled"


async def test_retrying_what_matches(client: Client, engine: AsyncEngine) -> None:
    failed = await fail(engine, 3, message="no route to host")
    (discarded,) = await fail(engine, message="No route at all")
    await client.http.post("/dead-letters/discard", json={"ids": [str(discarded)]})
    expired = await ended_as(engine, "expired")
    done = await ended_as(engine, "succeeded")
    (waiting,) = await put(engine)

    assert await act(client, "retry", error_text="NO ROUTE", dry_run=True) == {"matched": 4, "retried": 0}
    assert await act(client, "retry", error_text="NO ROUTE") == {"matched": 4, "retried": 4}
    assert await act(client, "retry", all=True) == {"matched": 1, "retried": 1}
    for id in (*failed, discarded, expired):
        job = await the_job(engine, id)
        assert (job["status"], job["max_attempts"], job["error"]) == ("queued", 6, None), "a fresh budget"
    assert not await rows(engine, "SELECT 1 AS one FROM dead_letters UNION ALL SELECT 1 AS one FROM discarded_letters")
    assert [(await the_job(engine, id))["status"] for id in (done, waiting)] == ["succeeded", "queued"]


async def test_what_needs_a_failed_job_waits_for_its_retry(
    client: Client, engine: AsyncEngine, broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it comes in the same piece, before or after it, or does not match."""
    ids = await put_graph(engine, broker, {"a": "", "b": "a", "c": "b"}, queue="q")
    for selection, size in (({"all": True}, 500), ({"all": True}, 1), ({"status": "failed"}, 500)):
        monkeypatch.setattr(many, "MAX_BATCH", size)
        assert await run_again(engine) == 1
        assert await statuses(engine, ids) == {"a": "failed", "b": "cancelled", "c": "cancelled"}
        assert await act(client, "retry", status="cancelled") == {"matched": 2, "retried": 0}
        both = len(ids) if "all" in selection else 1
        assert await act(client, "retry", **selection) == {"matched": both, "retried": both}
        assert await statuses(engine, ids) == {"a": "queued", "b": "blocked", "c": "blocked"}


async def test_the_same_request_several_times_at_once(client: Client, engine: AsyncEngine) -> None:
    """Each job is cancelled once, and retried once, whoever comes first."""
    ids = await put(engine, 40, callback_url=HOOK)
    answers = await asyncio.gather(*(act(client, "cancel", queue="q") for _ in range(4)))
    assert sum(answer["cancelled"] for answer in answers) == 40
    assert await told(engine) == sorted(map(str, ids))
    answers = await asyncio.gather(*(act(client, "retry", queue="q") for _ in range(4)))
    assert sum(answer["retried"] for answer in answers) == 40
    found = await rows(engine, "SELECT DISTINCT status, max_attempts, retried_after FROM jobs WHERE queue = 'q'")
    assert [(row["status"], row["max_attempts"], row["retried_after"]) for row in found] == [("queued", 5, [0])]
    assert len(await rows(engine, "SELECT 1 AS one FROM outbox WHERE queue = 'q'")) == 40


async def test_more_than_one_request_has_time_for(
    client: Client, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (many, "MAX_BATCH", 2), (many, "MAX_COUNTED", 3), (many, "MANY_SECONDS", 0.0), (service, "FIRST_STEP", 4),
        (service, "LARGEST_STEP", 4),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    wanted = await put(engine, 5, tags=["red"])
    await put(engine, 9)
    wanted += await put(engine, 2, tags=["red"])
    for dry_run in (True, False):
        answers = await all_pieces(client, "cancel", tag="red", dry_run=dry_run)
        assert sum(answer["matched"] for answer in answers) == 7
        assert sum(answer["cancelled"] for answer in answers) == (0 if dry_run else 7)
        assert [answer.get("complete", True) for answer in answers] == [False] * (len(answers) - 1) + [True]
        assert len(answers) > 3
    assert {(await the_job(engine, id))["status"] for id in wanted} == {"cancelled"}


async def all_pieces(client: Client, what: str, **selection: Any) -> list[Any]:
    answers = [await act(client, what, **selection)]
    while "next" in answers[-1]:
        answers.append(await act(client, what, **selection, cursor=answers[-1]["next"]))
    return answers


@pytest.mark.parametrize("what", ["cancel", "retry", "delete"])
async def test_a_selection_that_does_not_say_what(client: Client, what: str) -> None:
    for body, pointer in (
        ({}, "/all"), ({"dry_run": True}, "/all"), ({"all": False}, "/all"), ({"all": True, "queue": "q"}, "/all"),
        ({"queue": None}, "/queue"), ({"status": "done"}, "/status"), ({"status": []}, "/status"),
        ({"statuses": "queued"}, "/statuses"), ({"batch_id": "x"}, "/batch_id"), ({"all": "true"}, "/all"),
        ({"all": True, "cursor": "x"}, "/cursor"), ({"limit": 3}, "/limit"),
    ):  # fmt: skip
        check_problem(await client.http.post(f"/jobs/{what}", json=body), 422, pointer)
    check_problem(await client.http.post(f"/jobs/{what}?all=true", json={"all": True}), 422, "/all")


async def test_only_with_the_scope(app: HttpApp, engine: AsyncEngine) -> None:
    (id,) = await put(engine)
    reader = await app.client("t", "jobs:read")
    for what in ("cancel", "retry", "delete"):
        check_problem(await reader.http.post(f"/jobs/{what}", json={"all": True}), 403)
    check_problem(await reader.http.delete(f"/jobs/{id}"), 403)
    assert (await the_job(engine, UUID(str(id))))["status"] == "queued"
