"""Settings changed at random, beside a model: what was confirmed.

In the process that confirmed it a setting must hold at once, in the other API within half a second. Whether the limits
of the queues that run held in between is read off the attempts in the end.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.rates import CATCH_UP
from accepted.domain.tenants import SCOPES
from accepted.services import keys
from accepted.storage import tenants
from accepted.storage.db.engine import transaction
from tests.faults import effects
from tests.faults.checker import Ledger
from tests.support.waiting import until

RUNNING = ("r0", "r1", "r2")
COUNTED = ("d0", "d1")
TENANTS = ("t0", "t1")
BACKLOG = 20
DAY = 86400

RATES = (None, None, {"jobs": 1, "per": DAY}, {"jobs": 1, "per": 30}, {"jobs": 50, "per": 1}, {"jobs": 10, "per": 0.5})
CHOICES: dict[str, tuple[Any, ...]] = {
    "paused": (False, False, True),
    "max_running": (None, 1, 2, 5),
    "max_running_per_key": (None, 1, 2),
    "rate_limit": RATES,
}

ELSEWHERE = 0.5
NOISE = 1.0
"""Seconds within which a setting holds elsewhere; and what a single one may take longer on a busy machine."""

GOES_ON = 3.0
"""Seconds within which a job starts once a change allows it. Under a former rate it would wait for 30 s, or a day."""

WAITING = "SELECT count(*) FROM outbox WHERE queue = $1"
STARTED = """
SELECT EXISTS (SELECT 1 FROM attempts t JOIN jobs j ON j.id = t.job_id WHERE j.queue = $1 AND t.started_at > $2)
"""
RUNS = """
SELECT extract(epoch FROM t.started_at)::float8 AS began, extract(epoch FROM t.finished_at)::float8 AS ended,
       j.concurrency_key AS key
FROM attempts t JOIN jobs j ON j.id = t.job_id WHERE j.queue = $1 ORDER BY t.started_at
"""


@dataclass(frozen=True)
class Window:
    """What held on a queue from its confirmation until the next change was sent; seconds of the wall clock."""

    begins: float
    ends: float
    limits: dict[str, Any]


@dataclass
class RunningQueue:
    name: str
    limits: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(CHOICES) | {"paused": False})
    confirmed: float = 0.0
    windows: list[Window] = field(default_factory=list)

    @property
    def goes(self) -> bool:
        """Whether its limits let a job start about at once."""
        rate = self.limits["rate_limit"]
        return not self.limits["paused"] and (rate is None or rate["per"] / rate["jobs"] < 0.1)


class Stage:
    """Two APIs, the model, and how long each setting took to hold elsewhere."""

    def __init__(self, seed: int, ledger: Ledger, engine: AsyncEngine, apis: list[httpx.AsyncClient]) -> None:
        self.random = random.Random(seed)
        self.ledger, self.engine, self.apis = ledger, engine, apis
        self.queues = {name: RunningQueue(name) for name in RUNNING}
        self.depths: dict[str, int | None] = dict.fromkeys(COUNTED)
        self.waiting: dict[str, list[str]] = {name: [] for name in COUNTED}
        self.quotas: dict[str, tuple[int, int] | None] = dict.fromkeys(TENANTS)
        self.tenant_keys: dict[str, str] = {}
        self.keys: dict[UUID, str] = {}
        self.delays: list[float] = []

    async def change(self) -> None:
        kinds = (self.limits, self.limits, self.limits, self.depth, self.depth, self.quota, self.type, self.key)
        await self.random.choice(kinds)()

    async def limits(self) -> None:
        queue = self.queues[self.random.choice(RUNNING)]
        names = self.random.sample(sorted(CHOICES), self.random.choice((1, 1, 2)))
        changes = {name: self.random.choice(CHOICES[name]) for name in names}
        await self.patch(queue, changes)
        if queue.goes:
            await until(lambda: self._has_started(queue), GOES_ON, f"a job of {queue.name} {queue.limits}")

    async def patch(self, queue: RunningQueue, changes: dict[str, Any]) -> None:
        one, other = self._both()
        if queue.confirmed:
            queue.windows.append(Window(queue.confirmed, time.time(), queue.limits))
        answer = await one.patch(f"/queues/{queue.name}", json=changes)
        queue.confirmed, queue.limits = time.time(), queue.limits | changes
        for shown in (answer, await one.get(f"/queues/{queue.name}"), await other.get(f"/queues/{queue.name}")):
            assert {name: shown.json()[name] for name in CHOICES} == queue.limits

    async def depth(self) -> None:
        """Only this test submits to these queues, so it knows how many jobs wait on each."""
        queue = self.random.choice(COUNTED)
        if len(waiting := self.waiting[queue]) > BACKLOG:
            await asyncio.gather(*(self.apis[0].post(f"/jobs/{id}/cancel") for id in waiting))
            waiting.clear()
        before = self.depths[queue]
        depth = self.random.choice([d for d in (None, *range(1, len(waiting) + 3)) if d != before or d is None])
        one, other = self._both()
        answer = await one.patch(f"/queues/{queue}", json={"max_depth": depth})
        self.depths[queue] = depth
        assert answer.json()["max_depth"] == depth

        async def follows(api: httpx.AsyncClient) -> bool:
            wanted = 202 if depth is None or len(waiting) < depth else 429
            answer = await self._submit(api, queue=queue)
            if answer.status_code == 202:
                waiting.append(answer.json()["id"])
            return answer.status_code == wanted

        assert await follows(one), f"max_depth {before} -> {depth}, {len(waiting)} wait"
        await self._elsewhere(lambda: follows(other))

    async def quota(self) -> None:
        """Set as `accepted keys quota` does, by another process."""
        tenant = self.random.choice(TENANTS)
        jobs = self.random.choice((None, *range(1, 20)))
        async with transaction(self.engine) as conn:
            if jobs is None:
                await tenants.remove_quota(conn, tenant)
            else:
                await tenants.put_quota(conn, tenant, jobs, DAY)
            await conn.commit()
        used = min((self.quotas[tenant] or (0, 0))[1], jobs or 0)
        self.quotas[tenant] = None if jobs is None else (jobs, used)

        async def follows(api: httpx.AsyncClient) -> bool:
            answer = await self._submit(api, self.tenant_keys[tenant])
            policy, found = answer.headers.get("ratelimit-policy"), self.quotas[tenant]
            if policy is None or found is None:
                return policy is None and found is None
            jobs, used = found
            assert policy == f'"jobs";q={jobs};w={DAY}'
            assert answer.status_code == (202 if used < jobs else 429)
            self.quotas[tenant] = jobs, min(used + 1, jobs)
            assert answer.headers["ratelimit"].startswith(f'"jobs";r={jobs - min(used + 1, jobs)};')
            return True

        for api in self.apis:
            await self._elsewhere(lambda api=api: follows(api))

    async def type(self) -> None:
        one, other = self._both()
        queue, wants = f"type-{self.random.randrange(100)}", self.random.random() < 0.5
        schema = {"required": ["n"]} if wants else {}
        answer = await one.put("/job-types/theirs", json={"queue": queue, "payload_schema": schema})
        assert answer.status_code in (200, 201)

        async def follows(api: httpx.AsyncClient) -> bool:
            without = await self._submit(api, type="theirs")
            whole = await self._submit(api, type="theirs", payload={"n": 1})
            expected = without.status_code == (422 if wants else 202)
            return expected and whole.status_code == 202 and whole.json()["queue"] == queue

        assert await follows(one)
        await self._elsewhere(lambda: follows(other))

    async def key(self) -> None:
        """Created and revoked as `accepted keys` does, by another process."""
        if len(self.keys) < 3 or self.random.random() < 0.5:
            key_id, key = await keys.create(self.engine, "main", "n", list(SCOPES))
            self.keys[key_id], wanted = key, 200
        else:
            key_id, key = self.keys.popitem()
            async with transaction(self.engine) as conn:
                assert await tenants.revoke_key(conn, key_id)
                await conn.commit()
            wanted = 401

        async def follows(api: httpx.AsyncClient) -> bool:
            return (await api.get("/job-types", headers=bearer(key))).status_code == wanted

        for api in self.apis:
            await self._elsewhere(lambda api=api: follows(api))

    async def load(self) -> None:
        """Keep jobs waiting on every queue that runs, until cancelled."""
        while True:
            for number, queue in enumerate(RUNNING):
                if await self.ledger.value(WAITING, queue) < BACKLOG:
                    answer = await self.apis[number % 2].post("/batches", json={"jobs": [_job(queue)] * BACKLOG})
                    assert answer.status_code == 202, answer.text
            await asyncio.sleep(0.1)

    def _both(self) -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
        one, other = self.random.sample(self.apis, 2)
        return one, other

    async def _submit(self, api: httpx.AsyncClient, key: str = "", **fields: Any) -> httpx.Response:
        body = {"type": effects.TYPE, "queue": "later", "delay": 3600} | fields
        if fields.get("type") == "theirs":
            del body["queue"]
        return await api.post("/jobs", json=body, headers=bearer(key) if key else {})

    async def _elsewhere(self, follows: Callable[[], Awaitable[bool]]) -> None:
        begun = time.monotonic()
        await until(follows, ELSEWHERE + NOISE, "a setting to hold elsewhere", interval=0.01)
        self.delays.append(time.monotonic() - begun)

    async def _has_started(self, queue: RunningQueue) -> bool:
        return bool(await self.ledger.value(STARTED, queue.name, datetime.fromtimestamp(queue.confirmed, UTC)))


def _job(queue: str) -> dict[str, Any]:
    seconds = random.uniform(0.0, 0.1)
    return {
        "type": effects.TYPE, "queue": queue, "payload": {"seconds": seconds},
        "concurrency_key": random.choice(("a", "b", "c")),
    }  # fmt: skip


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def held(window: Window, runs: list[Any]) -> None:
    """No job that started in the window exceeds the limits that held there."""
    limits = window.limits
    begun = [run for run in runs if window.begins < run["began"] < window.ends]
    assert not (begun and limits["paused"]), f"{len(begun)} started while paused: {window}"
    for run in begun:
        beside = [other for other in runs if other["began"] <= run["began"] < other["ended"]]
        if limits["max_running"] is not None:
            assert len(beside) <= limits["max_running"], f"{len(beside)} at once: {window}"
        if limits["max_running_per_key"] is not None:
            same = [other for other in beside if other["key"] == run["key"]]
            assert len(same) <= limits["max_running_per_key"], f"{len(same)} of a key: {window}"
    if (rate := limits["rate_limit"]) is not None and begun:
        every = rate["per"] / rate["jobs"]
        seconds = begun[-1]["began"] - begun[0]["began"]
        assert len(begun) <= (seconds + CATCH_UP) / every + 2, f"{len(begun)} in {seconds:g} s: {window}"
