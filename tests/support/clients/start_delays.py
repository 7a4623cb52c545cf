"""How late delayed jobs start, as their submitter sees it: `started_at` against `run_at`."""

import asyncio
import random

from tests.support.clients.client import PATIENCE, Client, seconds_between
from tests.support.waiting import until


async def lateness(client: Client, count: int, soonest: float, latest: float, queue: str) -> list[float]:
    """Seconds by which each of `count` jobs started after its moment, sorted; the moments lie anywhere between."""
    chance = random.Random(7)
    turns = asyncio.Semaphore(16)

    async def submit() -> str:
        async with turns:
            job = await client.submit("noop", delay=chance.uniform(soonest, latest), queue=queue)
            return str(job["id"])

    ids = set(await asyncio.gather(*(submit() for _ in range(count))))
    late: dict[str, float] = {}

    async def all_started() -> bool:
        page = "/jobs?limit=200&queue=" + queue
        while page:
            answer = (await client.get(page)).json()
            for job in answer["items"]:
                if job["id"] in ids and job["started_at"]:
                    late[job["id"]] = seconds_between(job["run_at"], job["started_at"])
            page = f"/jobs?limit=200&queue={queue}&cursor={answer['next']}" if answer["next"] else ""
        return len(late) == count

    await until(all_started, latest + PATIENCE, lambda: f"{len(late)} of {count} have started", interval=1)
    return sorted(late.values())


def percentile(values: list[float], share: float) -> float:
    return values[min(int(len(values) * share), len(values) - 1)]
