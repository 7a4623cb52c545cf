"""What a queue's limits mean to those who submit to it, whichever broker is behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from tests.support.clients.client import Client, Job, seconds_between

Scenario = Callable[[Client, str], Awaitable[None]]


async def patch(client: Client, queue: str, body: Any) -> httpx.Response:
    return await client.http.patch(f"/queues/{queue}", json=body)


async def limit(client: Client, queue: str, **limits: Any) -> None:
    answer = await patch(client, queue, limits)
    assert answer.status_code == 200, answer.text


async def submit(client: Client, queue: str, count: int, seconds: float = 0.0, **fields: Any) -> list[Job]:
    return [await client.submit("sleep", {"seconds": seconds}, queue=queue, **fields) for _ in range(count)]


async def in_order(client: Client, jobs: list[Job]) -> list[Job]:
    """All of them finished, as they began."""
    done = await asyncio.gather(*(client.finished(job["id"]) for job in jobs))
    assert {(job["status"], job["attempt"]) for job in done} == {("succeeded", 1)}
    return sorted(done, key=lambda job: str(job["started_at"]))


def most_at_once(done: list[Job]) -> int:
    return max(sum(a["started_at"] <= b["started_at"] < a["finished_at"] for a in done) for b in done)


async def a_paused_queue_begins_nothing(client: Client, queue: str) -> None:
    await limit(client, queue, paused=True)
    jobs = await submit(client, queue, 3)
    await client.finish("noop", queue=f"{queue}-other")
    assert {(await client.job(job["id"]))["status"] for job in jobs} == {"queued"}
    await limit(client, queue, paused=False)
    await in_order(client, jobs)


async def no_more_than_max_running_run(client: Client, queue: str) -> None:
    await limit(client, queue, max_running=2)
    assert most_at_once(await in_order(client, await submit(client, queue, 8, 0.2))) == 2


async def no_more_than_max_running_per_key_run(client: Client, queue: str) -> None:
    await limit(client, queue, max_running_per_key=1, paused=True)
    keys = {key: await submit(client, queue, 3, 0.3, concurrency_key=key) for key in ("a", "b")}
    await limit(client, queue, paused=False)
    done = await in_order(client, [*keys["a"], *keys["b"]])
    assert most_at_once(done) == 2
    ids = {job["id"] for job in keys["a"]}
    assert most_at_once([job for job in done if job["id"] in ids]) == 1


async def keys_take_turns(client: Client, queue: str) -> None:
    await limit(client, queue, max_running=1, paused=True)
    many = await submit(client, queue, 10, concurrency_key="a")
    (one,) = await submit(client, queue, 1, concurrency_key="b")
    await limit(client, queue, paused=False)
    done = await in_order(client, [*many, one])
    assert one["id"] in {job["id"] for job in done[:2]}


async def priorities_hold_under_backlog(client: Client, queue: str) -> None:
    await limit(client, queue, max_running=1, paused=True)
    order = [0, 9, 4, 9, 0, 4]
    jobs = [(await submit(client, queue, 1, priority=priority))[0] for priority in order]
    await limit(client, queue, paused=False)
    assert [job["priority"] for job in await in_order(client, jobs)] == sorted(order, reverse=True)


async def a_rate_spaces_the_starts(client: Client, queue: str) -> None:
    await limit(client, queue, rate_limit={"jobs": 10, "per": 2})
    done = await in_order(client, await submit(client, queue, 10))
    began = [seconds_between(done[0]["started_at"], job["started_at"]) for job in done]
    assert began[-1] > 9 * 0.2 - 0.3, began


async def a_limit_set_while_jobs_run_holds_for_the_rest(client: Client, queue: str) -> None:
    jobs = await submit(client, queue, 30, 0.5)
    await client.until_status(jobs[0]["id"], "running", "succeeded")
    await limit(client, queue, max_running=1)
    later = await in_order(client, await submit(client, queue, 3, 0.1))
    assert most_at_once(later) == 1
    await in_order(client, jobs)


SCENARIOS: list[Scenario] = [
    a_paused_queue_begins_nothing,
    no_more_than_max_running_run,
    no_more_than_max_running_per_key_run,
    keys_take_turns,
    priorities_hold_under_backlog,
    a_rate_spaces_the_starts,
    a_limit_set_while_jobs_run_holds_for_the_rest,
]
