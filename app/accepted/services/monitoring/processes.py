"""The live processes as `GET /workers` shows them, and how one is asked to drain.

An API process or a scheduler serves all tenants, as does a worker process, so every key sees it; of the jobs that it
runs a key sees those of its tenant. An HTTP worker is its tenant's.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.domain.monitoring.audit import Action
from accepted.domain.tenants import SHARED
from accepted.errors import Conflict, ResourceNotFound
from accepted.services.lease_waiters import WAITING
from accepted.services.monitoring import audit
from accepted.storage.db import notifications
from accepted.storage.db.engine import reading, transaction
from accepted.storage.db.notifications import DRAINS
from accepted.storage.monitoring import processes
from accepted.storage.monitoring.processes import MOST_RUNNING, HeldJob, LaneOverHttp, LiveLane, PartOf

_KEPT: dict[PartOf, str] = {
    "dev": "it is a part of `accepted dev`, which would start it again: stop that command",
    "api": "it is one of the processes of `accepted api --workers N`, which would start it again: stop that command",
}
"""Why such a process does not drain."""

_OVER_HTTP = "it works over HTTP and is no process of this service: stop it where it runs"


async def live(engine: AsyncEngine, tenant: str | None, lease_ttl: float) -> list[dict[str, Any]]:
    """The live processes; of running jobs and HTTP workers those of `tenant`, or all if it is None."""
    async with reading(engine) as conn:
        found = await processes.live(conn, lease_ttl)
        over_http = await processes.over_http(conn, lease_ttl, tenant)
        return await _shown(conn, found, tenant) + _over_http(over_http)


async def drain(engine: AsyncEngine, process_id: UUID, tenant: str | None, lease_ttl: float) -> dict[str, Any]:
    """Ask a live process to take no more, finish and end. Returns it as `live` shows it; may be repeated.

    Raises `ResourceNotFound`, or `Conflict` for one that somebody else has to stop.
    """
    async with transaction(engine) as conn:
        if not (found := await processes.live(conn, lease_ttl, process_id)):
            await _refuse_http_worker(conn, process_id, tenant, lease_ttl)
            raise ResourceNotFound("no live process has this id")
        if (part_of := found[0].part_of) is not None:
            raise Conflict(_KEPT[part_of])
        await processes.ask_to_drain(conn, process_id)
        await audit.record(conn, Action.WORKER_DRAINED, tenant or SHARED, str(process_id), kind=found[0].kind)
        await notifications.announce_settings(conn, DRAINS)
        (shown,) = await _shown(conn, found, tenant)
        await conn.commit()
    return shown | {"draining": True}


async def _refuse_http_worker(conn: AsyncConnection, id: UUID, tenant: str | None, lease_ttl: float) -> None:
    """Raise `Conflict` if `id` is an HTTP worker that the caller sees."""
    over_http = await processes.over_http(conn, lease_ttl, tenant)
    if any(lane.id == id for lane in over_http):
        raise Conflict(_OVER_HTTP)


async def _shown(conn: AsyncConnection, found: Sequence[LiveLane], tenant: str | None) -> list[dict[str, Any]]:
    held: defaultdict[UUID | None, list[HeldJob]] = defaultdict(list)
    for job in await processes.held(conn, [one.lane for one in found if one.lane is not None], tenant):
        held[job.lane].append(job)
    return [_process(list(lanes), held) for _, lanes in groupby(found, lambda one: one.id)]


def _process(lanes: list[LiveLane], held: Mapping[UUID | None, list[HeldJob]]) -> dict[str, Any]:
    """The lane with the id of its process runs the jobs that people submit; another one makes deliveries."""
    one = next((lane for lane in lanes if lane.lane == lane.id), lanes[0])
    deliveries = next((lane for lane in lanes if lane is not one), None)
    seen = [job for job in held.get(one.lane, ()) if job.seen]
    return {
        "id": one.id,
        "kind": one.kind,
        "name": f"{one.host}:{one.pid}",
        "host": one.host,
        "pid": one.pid,
        "over_http": False,
        "version": one.version,
        "started_at": one.started_at,
        "heartbeat_at": one.heartbeat_at,
        "draining": one.draining,
        "queues": one.queues,
        "types": sorted({name for lane in lanes for name in lane.types or ()}),
        **_slots(one, held),
        "deliveries": None if deliveries is None else _slots(deliveries, held),
        **_running([_running_job(job) for job in seen], seen[0].jobs if seen else 0),
        "outcomes": msgspec.Raw(one.outcomes.encode()),
        "loops": msgspec.Raw(one.loops.encode()),
    }


def _slots(lane: LiveLane, held: Mapping[UUID | None, list[HeldJob]]) -> dict[str, int]:
    """A lane may claim more than it has slots for; those jobs wait in it for a moment."""
    slots, jobs = lane.slots or 0, held.get(lane.lane)
    return {"slots": slots, "busy": min(jobs[0].held, slots) if jobs else 0}


def _running(shown: list[dict[str, Any]], jobs: int) -> dict[str, Any]:
    return {"running": shown[:MOST_RUNNING], "more_running": max(jobs - MOST_RUNNING, 0)}


def _running_job(job: HeldJob) -> dict[str, Any]:
    return {
        "id": job.id,
        "type": job.type,
        "queue": job.queue,
        "attempt": job.attempt,
        "started_at": job.started_at,
        "ending": job.ending,
    }


def _over_http(rows: Sequence[LaneOverHttp]) -> list[dict[str, Any]]:
    """HTTP workers: all leases and waiting requests of one tenant under one name are one of them."""
    by_name = defaultdict(list)
    for row in rows:
        by_name[row.tenant, row.name.removeprefix(WAITING)].append(row)
    return [_http_worker(name, lanes) for (_, name), lanes in by_name.items()]


def _http_worker(name: str, lanes: list[LaneOverHttp]) -> dict[str, Any]:
    running = [_leased(lane) for lane in lanes if lane.job_id is not None]
    return {
        "id": lanes[0].id,
        "kind": "worker",
        "name": name,
        "host": None,
        "pid": None,
        "over_http": True,
        "version": None,
        "started_at": min(lane.started_at for lane in lanes),
        "heartbeat_at": max(lane.heartbeat_at for lane in lanes),
        "draining": False,
        "queues": sorted({queue for lane in lanes for queue in lane.queues or ()}),
        "types": sorted({type for lane in lanes for type in lane.types or ()}),
        "slots": sum(lane.slots for lane in lanes),
        "busy": len(running),
        "deliveries": None,
        **_running(sorted(running, key=lambda job: job["started_at"]), len(running)),
        "outcomes": {},
        "loops": [],
    }


def _leased(lane: LaneOverHttp) -> dict[str, Any]:
    return {
        "id": lane.job_id,
        "type": lane.type,
        "queue": lane.queue,
        "attempt": lane.attempt,
        "started_at": lane.attempt_started_at,
        "ending": lane.ending,
    }
