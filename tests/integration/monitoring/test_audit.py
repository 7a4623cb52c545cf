"""Each act has a row in the audit, from the transaction of the act, and only its tenant and operators see it."""

from typing import Any
from uuid import UUID

import pytest

from accepted.domain.ids import new_id
from accepted.domain.monitoring.audit import Action
from accepted.domain.tenants import SCOPES
from accepted.errors import LedgerUnavailable
from accepted.services import keys, manual_retry
from accepted.services.monitoring.audit import RecordedPieces
from accepted.storage.db.engine import transaction
from accepted.storage.dead_letters import LetterFilter
from accepted.storage.jobs.job_filter import JobFilter
from accepted_worker.scheduler.pruner import Pruner
from tests.support.clients.client import Client, check_problem
from tests.support.ledger.dead_letters import fail
from tests.support.ledger.sql import do, rows
from tests.support.service.http_app import HttpApp

OF_A_TENANT = [scope for scope in SCOPES if scope != "operator"]
JOB = {"cron": "0 4 * * *", "job": {"type": "noop", "payload": {"secret": "payload"}}}


async def acts(client: Client, query: str = "") -> list[dict[str, Any]]:
    answer = await client.get(f"/audit{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


async def test_each_act_is_recorded_with_its_key_and_address(app: HttpApp, client: Client) -> None:
    await client.http.patch("/queues/q", json={"paused": True, "rate_limit": {"jobs": 5, "per": 1}})
    await client.http.patch("/queues/q", json={"rate_limit": None})
    await client.http.delete("/queues/q")
    for name in ("nightly", "nightly"):
        await client.http.put(f"/schedules/{name}", json=JOB)
    job = (await client.http.post("/schedules/nightly/trigger")).json()
    await client.http.delete("/schedules/nightly")
    await client.http.post("/webhook-secret/rotate")
    batch = (await client.http.post("/batches", json={"jobs": [{"type": "noop", "delay": 60}]})).json()
    await client.http.post(f"/batches/{batch['id']}/cancel")
    found = await acts(client)
    assert [(one["action"], one["target"]) for one in reversed(found)][1:] == [
        ("queue.changed", "q"), ("queue.changed", "q"), ("queue.deleted", "q"), ("schedule.put", "nightly"),
        ("schedule.put", "nightly"), ("schedule.triggered", "nightly"), ("schedule.deleted", "nightly"),
        ("webhook_secret.rotated", None), ("batch.cancelled", batch["id"]),
    ]  # fmt: skip
    details = [one["detail"] for one in reversed(found)][1:]
    rate = {"jobs": 5, "per": 1.0}
    assert details[0] == {"before": None, "after": {"paused": True, "rate_limit": rate}}
    assert details[1] == {"before": {"rate_limit": rate}, "after": {"rate_limit": None}}
    assert [one["job_changed"] for one in details[3:5]] == [True, False]
    assert details[5] == {"job_id": job["id"]}
    key = await rows(app.engine, "SELECT id FROM api_keys")
    for one in found[:-1]:
        assert one["tenant"] == "t"
        assert one["key"] == {"id": str(key[0]["id"]), "name": "tests"}
        assert one["address"] == "127.0.0.1"
    assert "payload" not in str(details)


async def test_a_key_has_its_creation_and_its_end(app: HttpApp, client: Client) -> None:
    made, _ = await keys.create(app.engine, "t", "checkout", ["jobs:read"])
    assert await keys.revoke(app.engine, made)
    assert not await keys.revoke(app.engine, made)
    ended, began, *_ = await acts(client)
    assert (ended["action"], ended["target"], ended["detail"]) == ("key.revoked", str(made), {"name": "checkout"})
    assert (began["action"], began["detail"]) == ("key.created", {"name": "checkout", "scopes": ["jobs:read"]})
    assert began["key"] is began["address"] is None


async def test_a_process_that_is_told_to_drain(app: HttpApp, client: Client) -> None:
    process = new_id()
    put = (
        "INSERT INTO processes (id, kind, host, pid, version, started_at) VALUES (:id, 'scheduler', 'h', 1, '1', now())"
    )
    await do(app.engine, put, id=process)
    assert (await client.http.post(f"/workers/{process}/drain")).status_code == 202
    (act,) = await acts(client, "?action=worker.drained")
    assert (act["target"], act["detail"]) == (str(process), {"kind": "scheduler"})


async def test_many_letters_are_one_act_that_counts_what_each_transaction_did(
    app: HttpApp, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manual_retry, "MAX_BATCH", 2)
    letters = await fail(app.engine, 7)
    wanted = {"queue": "q", "ids": [str(one) for one in letters[:5]]}
    assert (await client.http.post("/dead-letters/replay", json=wanted | {"dry_run": True})).json()["matched"] == 5
    assert (await client.http.post("/dead-letters/replay", json=wanted)).json()["replayed"] == 5
    (act,) = await acts(client, "?action=dead_letters.replayed")
    assert act["detail"] == {"filter": wanted, "matched": 5, "done": 5}

    calls = iter([2])

    async def fails_later(*_: object) -> int:
        for done in calls:
            return done
        raise LedgerUnavailable("away")

    monkeypatch.setattr(manual_retry.dead_letters, "discard", fails_later)
    await client.http.post("/dead-letters/discard", json={})
    (act,) = await acts(client, "?action=dead_letters.discarded")
    assert act["detail"] == {"filter": {}, "matched": 2, "done": 2}


async def test_acts_on_all_jobs_that_match_are_one_act_each(app: HttpApp, client: Client) -> None:
    jobs = [await client.submit(delay=60, tags=["ada"], queue="many") for _ in range(3)]
    await fail(app.engine, 2, queue="many")
    wanted = {"queue": "many"}
    assert (await client.http.post("/jobs/retry", json=wanted)).json()["retried"] == 2
    named = wanted | {"tag": "ada"}
    assert (await client.http.post("/jobs/cancel", json=named | {"dry_run": True})).json()["matched"] == 3
    assert (await client.http.post("/jobs/cancel", json=named)).json()["cancelled"] == 3
    assert (await client.http.delete(f"/jobs/{jobs[0]['id']}")).status_code == 204
    assert (await client.http.post("/jobs/delete", json=named)).json()["deleted"] == 2
    found = [(one["action"], one["target"], one["detail"]) for one in await acts(client)]
    by_name = {"filter": named}
    assert found[:4] == [
        ("jobs.deleted", None, by_name | {"done": 2}), ("job.deleted", jobs[0]["id"], {}),
        ("jobs.cancelled", None, by_name | {"done": 3}), ("jobs.retried", None, {"filter": wanted, "done": 2}),
    ]  # fmt: skip


async def test_the_filter_of_an_act_names_no_person(app: HttpApp, client: Client) -> None:
    act = RecordedPieces(Action.JOBS_DELETED, "t", JobFilter(metadata={"person": "Ada"}))
    async with transaction(app.engine) as conn:
        await act.record(conn, 1)
        await conn.commit()
    assert (await acts(client))[0]["detail"] == {"filter": {"metadata": ["person"]}, "done": 1}


async def test_an_act_that_is_not_committed_is_not_recorded(app: HttpApp, client: Client) -> None:
    before = await acts(client)
    for method, path in (("DELETE", "/queues/none"), ("DELETE", "/schedules/none"), ("POST", "/targets/none/release")):
        assert (await client.http.request(method, path)).status_code == 404
    assert (await client.http.patch("/queues/q", json={"paused": True}, headers={"if-match": "*"})).status_code == 412
    assert (await manual_retry.discard_letters(app.engine, "t", LetterFilter())).done == 0
    assert await acts(client) == before


async def test_only_the_tenant_and_operators_see_an_act(app: HttpApp, client: Client) -> None:
    other = await app.client("other", *OF_A_TENANT)
    assert {one["tenant"] for one in await acts(other)} == {"other"}
    assert {one["tenant"] for one in await acts(client)} == {"other", "t"}
    reader = await app.client("t", "jobs:read", "queues:admin")
    check_problem(await reader.get("/audit"), 403)


async def test_acts_are_paged_filtered_and_pruned(app: HttpApp, client: Client) -> None:
    for depth in range(1, 6):
        await client.http.patch("/queues/q", json={"max_depth": depth})
    seen, path = [], "/audit?limit=2&action=queue.changed"
    while path:
        answer = await client.get(path)
        seen += [one["detail"]["after"]["max_depth"] for one in answer.json()["items"]]
        path = answer.links["next"]["url"] if answer.json()["next"] else ""
    assert seen == [5, 4, 3, 2, 1]
    third = (await acts(client))[2]["at"]
    assert len(await acts(client, f"?since={third}")) == 3
    check_problem(await client.get("/audit?action=queue.paused"), 422, "/action")

    old = UUID("018bcfe5-6800-7000-8000-000000000000")  # of November 2023
    put = "INSERT INTO audit (id, at, tenant, action, detail) VALUES (:id, '2023-11-14Z', 't', 'key.created', '{}')"
    await do(app.engine, put, id=old)
    await Pruner(app.engine, 7 * 86400, 30 * 86400).run_once()
    assert len(await acts(client)) == 6
