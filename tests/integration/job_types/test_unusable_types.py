"""A type that cannot be used, whatever lies in the ledger, is the problem of its own jobs alone."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from accepted import Context, Retry, job
from accepted.errors import ConfigurationError
from accepted.services.job_types.registration import check_handled
from accepted.storage import job_types
from accepted.storage.db.engine import transaction
from tests.support.clients.client import Client, check_problem
from tests.support.clients.lease_client import lease, register, service
from tests.support.handlers.unusable import scan, scan_all
from tests.support.ledger.schedules import due
from tests.support.ledger.sql import do, rows
from tests.support.service.in_process_worker import HANDLERS, handlers_of, working
from tests.support.service.live_api import Api
from tests.support.waiting import until

BAD = [handlers_of(scan)["scan"].type, handlers_of(scan_all)["scan.all"].type]


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Api]:
    async with service(database_url) as started:
        async with transaction(started.state.engine) as conn:
            await job_types.register(conn, [*(handler.type for handler in HANDLERS.values()), *BAD])
            await conn.commit()
        yield started


@pytest.mark.parametrize(("number", "field"), [(0, "document"), (1, "Scan.document")])
def test_a_worker_refuses_to_start_with_it_and_names_the_field(number: int, field: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_handled([HANDLERS["noop"].type, BAD[number]])
    said = str(refused.value)
    assert f"type '{BAD[number].name}'" in said
    assert f"field '{field}'" in said
    assert '"file"' in said
    assert "\n" not in said


def test_what_the_service_itself_serves_can_be_used() -> None:
    check_handled(handler.type for handler in HANDLERS.values())


async def test_jobs_of_other_types_are_accepted(one: Api) -> None:
    client = await one.client()
    for _ in range(3):  # the first request reads the types, as after a restart
        assert (await client.post({"type": "noop"})).status_code == 202
        check_problem(await client.post({"type": "scan", "payload": {"document": "x"}}), 422, "/type", "document")
        one.state.type_cache.forget()
    batch = {"jobs": [{"type": "noop"}, {"type": "scan"}]}
    check_problem(await client.http.post("/batches", json=batch), 422, "/jobs/1/type")
    check_problem(await client.post({"type": "scam"}), 422, "/type", "scan")


async def test_it_is_shown_with_what_is_wrong(one: Api) -> None:
    client = await one.client()
    shown = await _types(client)
    assert "field 'document'" in shown["scan"]["problem"]
    assert shown["scan"]["payload_schema"]["properties"]["document"]["type"] == "file"
    assert "problem" not in shown["noop"]
    operator = await one.client("house", scopes=["operator"])
    assert (await operator.http.delete("/job-types/scan?shared=true")).status_code == 204
    assert "scan" not in await _types(client)


async def test_its_schedule_says_why_and_others_fire(one: Api) -> None:
    client = await one.client()
    engine = one.state.engine
    for name in ("bad", "good"):
        body = {"cron": "0 0 1 1 *", "job": {"type": "noop"}}
        assert (await client.http.put(f"/schedules/{name}", json=body)).status_code == 201
    await do(engine, """UPDATE schedules SET job = '{"type": "scan"}' WHERE name = 'bad'""")
    for name in ("bad", "good"):
        await due(engine, name)
    runs = {name: await until(lambda name=name: _runs(client, name), 20, "the run") for name in ("bad", "good")}
    assert [run["outcome"] for run in runs["good"]] == ["fired"]
    assert [(run["outcome"], "document" in run["reason"]) for run in runs["bad"]] == [("failed", True)]


FLAWS = {
    "jitter = 'NaN'": "jitter",
    "schedule = '{NaN}'": "schedule",
    "schedule = '{NULL}'": "schedule",
    "schedule = '{-1}'": "schedule",
    "max_attempts = 0": "max_attempts",
    "timeout = 'Infinity'": "timeout",
    "timeout = -1": "timeout",
    "not_found = 'perhaps'": "perhaps",
    "queue = 'No Queue'": "queue",
    "payload_schema = '[]'": "not an object",
    "payload_schema = 'true'": "not an object",
    """payload_schema = '{"$ref": "#/nowhere"}'""": "payload schema",
    """payload_schema = '{"properties": {"n": {"pattern": "("}}}'""": "field 'n'",
    """payload_schema = '{"minimum": 1e999}'""": "payload schema",
}
"""What is set in a row, and a part of what is said about it."""


async def test_other_flaws(one: Api) -> None:
    """Each in the row of a type of its own, and all at once."""
    client, engine = await one.client(), one.state.engine
    for number, change in enumerate(FLAWS):
        assert (await client.http.put(f"/job-types/odd{number}", json={})).status_code == 201
        await do(engine, f"UPDATE job_types SET {change.replace(':', chr(92) + ':')} WHERE name = 'odd{number}'")
    shown = await _types(client)
    for number, (change, said) in enumerate(FLAWS.items()):
        assert said in shown[f"odd{number}"]["problem"], change
        check_problem(await client.post({"type": f"odd{number}"}), 422, "/type")
    job_ = await client.submit("noop", queue="q")
    async with working(engine, one.state.broker):
        assert (await client.finished(job_["id"]))["status"] == "succeeded"
    assert (await client.http.put("/job-types/odd0", json={})).status_code == 200
    assert "problem" not in (await _types(client))["odd0"]


async def test_leases_of_its_neighbors_on_a_queue(one: Api) -> None:
    """They are claimed, and an attempt that runs too long ends, as if the type's row were well."""
    client, engine = await one.client(), one.state.engine
    for name in ("odd", "even"):
        await register(client, name)
    ids = {(await client.submit(name))["id"] for name in ("odd", "even")}
    await do(engine, "UPDATE job_types SET timeout = 'Infinity', not_found = 'perhaps' WHERE name = 'odd'")
    items = await lease(client, most=2)
    assert {item["job"]["id"] for item in items} == ids
    await do(engine, "UPDATE workers SET ends_at = now() - interval '1 second' WHERE ends_at IS NOT NULL")
    for id_ in ids:
        await until(lambda id_=id_: _timed_out(client, id_), 20, "the end of the attempt")


async def test_the_attempts_of_jobs_whose_policy_cannot_be_read(one: Api) -> None:
    """The type's policy counts, so that the attempt has an end; and no heartbeat stops over them."""

    @job("again", retry=Retry(max_attempts=2, schedule=[0.1], jitter=0))
    async def again(payload: dict[str, Any], ctx: Context) -> None:
        if ctx.job.attempt == 1:
            raise ValueError("once")

    async with working(one.state.engine, one.state.broker, handlers=handlers_of(again), lease_ttl=2):
        client = await one.client()
        await until(lambda: _knows(client, "again"), 20, "the type")
        await client.http.patch("/queues/q", json={"paused": True})
        ids = [(await client.submit("again", queue="q"))["id"] for _ in range(3)]
        for id_, policy in zip(ids, ("[]", '{"max_attempts": "x"}', '{"schedule": [-5]}'), strict=True):
            await do(one.state.engine, "UPDATE jobs SET retry = CAST(:policy AS json) WHERE id = :id",
                     policy=policy, id=id_)  # fmt: skip
        await client.http.patch("/queues/q", json={"paused": False})
        for id_ in ids:
            done = await client.finished(id_)
            assert (done["status"], done["attempt"]) == ("succeeded", 2)
    assert len(await rows(one.state.engine, "SELECT * FROM attempts")) == 6


async def _types(client: Client) -> dict[str, Any]:
    answer = await client.http.get("/job-types")
    assert answer.status_code == 200, answer.text
    return {each["name"]: each for each in answer.json()["items"]}


async def _timed_out(client: Client, job_id: str) -> bool:
    return (await client.attempts(job_id))[0]["outcome"] == "timeout"


async def _knows(client: Client, name: str) -> bool:
    return name in await _types(client)


async def _runs(client: Client, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.http.get(f"/schedules/{name}/runs")).json()["items"]
    return found
