"""`accepted jobs`: finding jobs, acting on many, and what a job was, waits for and belongs to. Contract, section 1."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from tests.support.clients.client import Client
from tests.support.service.at_terminal import at_a_terminal
from tests.support.service.running_service import Running, accepted


@pytest.fixture(scope="module")
def terminal(trio: Running, keys: dict[str, str], client: Client) -> dict[str, str]:
    return {"ACCEPTED_URL": trio.url, "ACCEPTED_API_KEY": keys["acme"], "COLUMNS": "200"}


async def test_finding_and_acting_on_many(terminal: dict[str, str], client: Client) -> None:
    queue = f"cli-{uuid4().hex[:8]}"
    parked = {"delay": 3600, "queue": queue, "tags": ["red"], "metadata": {"customer": "7", "order": "a=b"}}
    jobs = [(await client.submit("noop", **parked))["id"] for _ in range(3)]
    fails = {"payload": {"seconds": 0, "fail_attempts": 1}, "retry": {"max_attempts": 1}, "queue": queue}
    failed = await client.finish("sleep", **fails)

    async def said(*arguments: str) -> Any:
        done = await accepted("jobs", *arguments, "--json", env=terminal)
        assert done.code == 0, done
        return json.loads(done.out)

    pairs = ("--metadata", "customer=7", "--metadata", "order=a=b", "--tag", "red", "--status", "scheduled,queued")
    first, soonest, text, empty, wrong, both, dry = await asyncio.gather(
        said("list", "--queue", queue, *pairs, "--limit", "2"),
        said("list", "--queue", queue, "--sort", "run_at"),
        said("list", "--queue", queue, "--error-text", failed["error"]["message"].upper()),
        accepted("jobs", "list", "--queue", queue, "--type", "nothing", env=terminal),
        accepted("jobs", "cancel", env=terminal),
        accepted("jobs", "cancel", jobs[0], "--queue", queue, env=terminal),
        said("cancel", "--queue", queue, "--dry-run"),
    )
    assert [job["id"] for job in first["items"]] == jobs[:0:-1]
    rest = await said("list", "--queue", queue, *pairs, "--cursor", first["next"])
    assert ([job["id"] for job in rest["items"]], rest["next"]) == (jobs[:1], None)
    assert [job["id"] for job in soonest["items"]] == jobs
    assert [job["id"] for job in text["items"]] == [failed["id"]]
    assert (empty.code, empty.out, empty.err) == (0, "", "no job matches\n")
    for refused in (wrong, both):
        assert (refused.code, refused.out) == (1, "")
    assert dry == {"matched": 3, "cancelled": 0}

    code, text = await at_a_terminal("n", "jobs", "cancel", "--queue", queue, env=terminal)
    assert (code, "Cancel 3 jobs?" in text) == (1, True), text
    assert (await client.job(jobs[0]))["status"] == "scheduled"
    code, text = await at_a_terminal("", "jobs", "cancel", "--queue", queue, "--yes", env=terminal)
    assert (code, text.strip()) == (0, "3 matched, 3 cancelled")
    assert await said("retry", "--queue", queue, "--status", "cancelled") == {"matched": 3, "retried": 3}
    for job in jobs:
        await client.finished(job)
    assert await said("delete", jobs[0]) == {"id": jobs[0], "deleted": True}
    plain = await accepted("jobs", "delete", "--queue", queue, env=terminal)
    assert (plain.code, plain.out) == (0, "3 matched, 3 deleted\n")
    for job in jobs:
        assert (await client.get(f"/jobs/{job}")).status_code == 410


async def test_what_a_job_was_and_belongs_to(terminal: dict[str, str], client: Client) -> None:
    once = {"payload": {"seconds": 0, "fail_attempts": 1}, "retry": {"schedule": [0], "jitter": 0}}
    job = await client.finish("sleep", **once)
    parts = [{"type": "noop", "ref": "load", "delay": 3600}, {"type": "noop", "ref": "sum", "depends_on": ["load"]}]
    workflow = (await client.http.post("/workflows", json={"jobs": parts})).json()
    load, total = [one["id"] for one in workflow["jobs"]]
    attempts, listed, none, why, explained, tree, drawn = await asyncio.gather(
        accepted("jobs", "attempts", job["id"], env=terminal),
        accepted("jobs", "attempts", job["id"], "--json", env=terminal),
        accepted("jobs", "attempts", load, env=terminal),
        accepted("jobs", "explain", total, env=terminal),
        accepted("jobs", "explain", total, "--json", env=terminal),
        accepted("jobs", "tree", total, "--json", env=terminal),
        accepted("jobs", "tree", total, env=terminal),
    )
    first, second = attempts.out.splitlines()
    assert ("transient" in first, "succeeded" in second) == (True, True), attempts
    assert [one["attempt"] for one in json.loads(listed.out)["items"]] == [1, 2]
    assert (none.code, none.out, none.err) == (0, "", "no attempt yet\n")
    assert total in why.out
    assert load in why.out
    assert json.loads(explained.out) == (await client.get(f"/jobs/{total}/explain")).json()
    found = json.loads(tree.out)
    assert [one["id"] for one in found["family"]] == [found["job"]["id"]] == [total]
    assert found["workflow"] == workflow["jobs"]
    assert f"* {total}  blocked    sum needs load" in drawn.out.splitlines()
    for id in (load, total):
        await client.http.post(f"/jobs/{id}/cancel")
