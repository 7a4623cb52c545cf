"""Limits, queues and sizing through real processes and at a terminal."""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from tests.support.clients.client import Client, check_problem
from tests.support.service.running_service import ALL_OF, Running, accepted, run_to_end
from tests.support.waiting import until


async def test_a_quota_and_a_share_set_at_a_terminal(trio: Running, client: Client) -> None:
    tenant = f"tenant-{uuid4().hex[:8]}"
    commands = [
        ["keys", "create", "--tenant", tenant, "--name", "n", "--scopes", "jobs:write"],
        ["keys", "quota", "--tenant", tenant],
        ["keys", "quota", "--tenant", tenant, "--jobs", "3", "--per", "3600"],
        ["keys", "share", "--tenant", tenant],
        ["keys", "share", "--tenant", tenant, "--max-running", "9"],
        ["keys", "share", "--tenant", tenant, "--weight", "3"],
        ["keys", "share", "--tenant", tenant, "--none"],
    ]
    done = await run_to_end([sys.executable, "-c", ALL_OF, json.dumps(commands)], trio.env)
    assert done.code == 0, done
    key, *said = done.out.splitlines()
    assert said == [
        "no quota",
        "3 jobs in 3600 s, 3 left",
        "weight 1, any number running",
        "weight 1, at most 9 running",
        "weight 3, at most 9 running",
        "weight 1, any number running",
    ]
    limited = trio.client(key)

    async def noticed() -> bool:
        return "ratelimit" in (await limited.post({"type": "noop"})).headers

    await until(noticed, 10, "the API to notice")
    answers = [await limited.post({"type": "noop"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert check_problem(answers[-1])["type"] == "/problems/quota-exceeded"
    assert answers[-1].headers["ratelimit-policy"] == '"jobs";q=3;w=3600'


async def test_queues_at_a_terminal(trio: Running, client: Client, keys: Mapping[str, str]) -> None:
    queue = f"queue-{uuid4().hex[:8]}"
    for _ in range(3):
        await client.finish("noop", queue=queue)
    limits = ["--max-running", "7", "--rate", "100/60", "--max-running-per-key", "2", "--max-depth", "1"]
    commands = [
        ["queues", "pause", queue, "--json"],
        ["queues", "limit", queue, *limits, "--json"],
        ["queues", "get", queue, "--json"],
        ["queues", "resume", queue],
        ["queues", "limit", queue, "--max-running", "none", "--rate", "none", "--json"],
        ["queues", "list", "--json"],
        ["size", "--queue", queue, "--drain-within", "60", "--json"],
        ["size", "--queue", queue],
    ]
    env = {**trio.env, "ACCEPTED_API_KEY": keys["acme"]}
    done = await run_to_end([sys.executable, "-c", ALL_OF, json.dumps(commands)], env)
    assert done.code == 0, done
    paused, limited, shown, resumed, lifted, listed, sizing, said, detail = done.out.splitlines()
    assert json.loads(paused)["paused"] is True
    assert json.loads(shown)["max_running"] == json.loads(limited)["max_running"] == 7
    assert json.loads(shown)["rate_limit"] == {"jobs": 100, "per": 60}
    assert queue in resumed
    assert "max_running=7, rate=100/60, max_running_per_key=2, max_depth=1" in resumed
    assert (json.loads(lifted)["max_running"], json.loads(lifted)["rate_limit"]) == (None, None)
    assert queue in {one["name"] for one in json.loads(listed)["items"]}
    assert (json.loads(sizing)["queue"], json.loads(sizing)["drain_within"]) == (queue, 60)
    assert said.startswith(f"{queue}: ")
    assert detail.startswith("  ")
    await refused_past_the_depth(client, queue)
    await measured(client, queue)


async def test_a_typing_error_makes_nothing(trio: Running, client: Client, keys: Mapping[str, str]) -> None:
    """Unless `--create` is given; and what was made by mistake can be deleted."""
    env = {**trio.env, "ACCEPTED_API_KEY": keys["acme"], "COLUMNS": "200"}
    queue, tenant = f"images-{uuid4().hex[:8]}", f"tenant-{uuid4().hex[:8]}"
    await client.http.patch(f"/queues/{queue}s", json={})
    refusals = await asyncio.gather(
        *(
            accepted(*command, env=env)
            for command in (
                ["queues", "pause", queue],
                ["queues", "resume", queue],
                ["queues", "limit", queue, "--max-running", "3"],
                ["queues", "delete", queue],
                ["queues", "delete", f"../queues/{queue}s"],
                ["keys", "quota", "--tenant", tenant, "--jobs", "3"],
                ["keys", "quota", "--tenant", tenant, "--none"],
                ["keys", "share", "--tenant", tenant, "--weight", "2"],
            )
        )
    )
    assert [(done.code, done.out, len(done.err.splitlines())) for done in refusals] == [(1, "", 1)] * len(refusals)
    for done in refusals[:3]:
        assert f'did you mean "{queue}s"?; --create makes it' in done.err
    assert all("404" in done.err for done in refusals[3:5])
    assert all(tenant in done.err and "no API key" in done.err for done in refusals[5:])
    check_problem(await client.get(f"/queues/{queue}"), 404)
    assert (await client.get(f"/queues/{queue}s")).status_code == 200
    commands = [
        ["queues", "pause", queue, "--create", "--json"],
        ["queues", "delete", queue],
        ["keys", "quota", "--tenant", tenant, "--jobs", "3", "--create"],
        ["keys", "quota", "--tenant", tenant, "--none"],
    ]
    done = await run_to_end([sys.executable, "-c", ALL_OF, json.dumps(commands)], env)
    assert done.code == 0, done
    made, limited, unlimited = done.out.splitlines()
    assert json.loads(made)["paused"] is True
    assert (limited, unlimited) == ("3 jobs in 60 s, 3 left", "no quota")
    check_problem(await client.get(f"/queues/{queue}"), 404)


async def refused_past_the_depth(client: Client, queue: str) -> None:
    """At most one job may wait, and API processes notice the limit within half a second."""
    await client.post({"type": "noop", "queue": queue, "delay": 3600})

    async def refused() -> bool:
        return (await client.post({"type": "noop", "queue": queue, "delay": 3600})).status_code == 429

    await until(refused, 10, "the API to notice")


async def measured(client: Client, queue: str) -> None:
    """The rate follows from the worker's attempts and the scheduler's samples."""

    async def sized() -> Any:
        found = (await client.get(f"/queues/{queue}/sizing")).json()
        return found if found["mean_run_time"] is not None and found["slots_advised"] is not None else None

    found = await until(sized, 40, "a measurement", interval=0.5)
    assert 0 <= found["mean_run_time"] < 5
    assert found["slots"] == 20
