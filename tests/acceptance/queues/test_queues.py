"""The limits of a queue over HTTP. Contract, section 4."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.clients.client import Client, check_problem
from tests.support.clients.queue_limits import SCENARIOS, Scenario, patch

NO_LIMITS = {"paused": False, "max_running": None, "rate_limit": None, "max_running_per_key": None, "max_depth": None}


async def limits(client: Client, queue: str) -> dict[str, Any]:
    answer = await client.get(f"/queues/{queue}")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    assert shown["name"] == queue
    return {name: shown[name] for name in NO_LIMITS}


async def test_a_queue_is_there_as_soon_as_a_job_names_it(client: Client, queue: str) -> None:
    check_problem(await client.get(f"/queues/{queue}"), 404)
    await client.submit("noop", queue=queue, delay=3600)
    assert await limits(client, queue) == NO_LIMITS


async def test_a_limit_makes_a_queue_that_nobody_named(client: Client, queue: str) -> None:
    answer = await patch(client, queue, {"max_running": 3})
    assert answer.status_code == 200
    assert answer.json() == {"name": queue, **NO_LIMITS, "max_running": 3} | answer.json()
    assert await limits(client, queue) == NO_LIMITS | {"max_running": 3}


async def test_what_is_left_out_stays_and_null_removes(client: Client, queue: str) -> None:
    everything = {
        "paused": True,
        "max_running": 5,
        "rate_limit": {"jobs": 100, "per": 60},
        "max_running_per_key": 2,
        "max_depth": 1000,
    }
    await patch(client, queue, everything)
    assert await limits(client, queue) == everything
    await patch(client, queue, {})
    assert await limits(client, queue) == everything
    await patch(client, queue, {"paused": False, "rate_limit": {"jobs": 1, "per": 0.5}})
    assert await limits(client, queue) == everything | {"paused": False, "rate_limit": {"jobs": 1, "per": 0.5}}
    for name in NO_LIMITS:
        await patch(client, queue, {name: None})
    assert await limits(client, queue) == NO_LIMITS


REFUSED = {
    "an unknown field": ({"max_runing": 1}, "/max_runing"),
    "no limit": ({"max_running": 0}, "/max_running"),
    "below nothing": ({"max_running": -1}, "/max_running"),
    "a fraction": ({"max_running": 1.5}, "/max_running"),
    "true": ({"max_running_per_key": True}, "/max_running_per_key"),
    "in quotes": ({"max_depth": "1"}, "/max_depth"),
    "beyond int4": ({"max_depth": 2**31}, "/max_depth"),
    "paused a number": ({"paused": 1}, "/paused"),
    "a rate without a window": ({"rate_limit": {"jobs": 1}}, "/rate_limit/per"),
    "a rate of nothing": ({"rate_limit": {"jobs": 0, "per": 1}}, "/rate_limit/jobs"),
    "a window of nothing": ({"rate_limit": {"jobs": 1, "per": 0}}, "/rate_limit/per"),
    "an unknown field of a rate": ({"rate_limit": {"jobs": 1, "per": 1, "burst": 5}}, "/rate_limit/burst"),
    "a rate a number": ({"rate_limit": 10}, "/rate_limit"),
    "a list": ([], ""),
}


@pytest.mark.parametrize(("body", "pointer"), REFUSED.values(), ids=REFUSED.keys())
async def test_refused(client: Client, queue: str, body: Any, pointer: str) -> None:
    check_problem(await patch(client, queue, body), 422, pointer)
    check_problem(await client.get(f"/queues/{queue}"), 404)


@pytest.mark.parametrize("name", ["Upper", "-x", "a" * 65, "a%00b", "%C3%A4", "a%0A"])
async def test_what_no_queue_can_be_called_is_not_there(client: Client, name: str) -> None:
    check_problem(await client.get(f"/queues/{name}"), 404)
    check_problem(await client.http.patch(f"/queues/{name}", json={"paused": True}), 404)


async def test_unknown_query_parameters_are_refused(client: Client, queue: str) -> None:
    check_problem(await client.http.patch(f"/queues/{queue}?dry_run=true", json={}), 422, "/dry_run")


async def test_only_an_administrator_sets_limits(
    anonymous: Client, client: Client, trio: Any, keys: Mapping[str, str], queue: str
) -> None:
    await patch(client, queue, {})
    check_problem(await patch(anonymous, queue, {"paused": True}), 401)
    check_problem(await anonymous.get(f"/queues/{queue}"), 401)
    for name in ("reader", "writer"):
        check_problem(await patch(trio.client(keys[name]), queue, {"paused": True}), 403)
    check_problem(await trio.client(keys["writer"]).get(f"/queues/{queue}"), 403)
    assert await limits(trio.client(keys["reader"]), queue) == NO_LIMITS


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
async def test_a_limit_is_kept(client: Client, queue: str, scenario: Scenario) -> None:
    await scenario(client, queue)
