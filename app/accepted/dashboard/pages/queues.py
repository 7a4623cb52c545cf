"""All queues, and one: what waits there and why, its limits, and how many slots it needs."""

import asyncio
from typing import Any

from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.charts import Chart, chart
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.figures import ended, points, waits
from accepted.dashboard.forms import minutes, typed
from accepted.dashboard.routing import pages
from accepted.dashboard.texts import number
from accepted.dashboard.visit import Visit

router = pages()

PATH = "/ui/queues"

WAITING = {"queued": None, "retrying": "run_at", "blocked": None, "scheduled": "run_at"}
"""States in which a job waits, and how its jobs are sorted: soonest first where they wait for a moment."""

EXAMPLES = 3
"""Jobs of each state of which a page says why they wait."""

LIMITS = {
    "max_running": "Running at once",
    "max_running_per_key": "Running at once, per key",
    "max_depth": "Waiting at most",
}
"""The settings of a queue that are one number, and their labels."""

Queue = dict[str, Any]


@router.get(PATH)
async def queues(visit: Visitor) -> Response:
    found = await visit.get("/queues")
    return visit.show("queues.html", "Queues", queues=found["items"], may_set=_may_set(visit))


@router.get(PATH + "/{name}")
async def queue(visit: Visitor, name: str) -> Response:
    return await _queue(visit, name)


@router.post(PATH + "/{name}/pause")
async def pause(visit: Visitor, name: str) -> Response:
    return await _set_paused(visit, name, True, "No new job of it starts.")


@router.post(PATH + "/{name}/resume")
async def resume(visit: Visitor, name: str) -> Response:
    return await _set_paused(visit, name, False, "Its jobs start again.")


@router.post(PATH + "/{name}/limits")
async def limits(visit: Visitor, name: str) -> Response:
    wanted: dict[str, Any] = {limit: typed(visit.field(limit)) for limit in LIMITS}
    jobs, per = typed(visit.field("rate_jobs")), typed(visit.field("rate_per"))
    wanted["rate_limit"] = None if jobs is None and per is None else {"jobs": jobs, "per": per}
    try:
        await visit.act("PATCH", f"/queues/{name}", wanted)
    except ApiRefusal as refusal:
        if refusal.status != 422:
            raise
        return await _queue(visit, name, refusal)
    return visit.go(f"{PATH}/{name}", f"The limits of queue {name} are set.")


async def _set_paused(visit: Visit, name: str, paused: bool, what_follows: str) -> Response:
    await visit.act("PATCH", f"/queues/{name}", {"paused": paused})
    back = PATH if visit.field("from") == "list" else f"{PATH}/{name}"
    return visit.go(back, f"Queue {name} is {'paused' if paused else 'resumed'}. {what_follows}")


async def _queue(visit: Visit, name: str, refused: ApiRefusal | None = None) -> Response:
    """The page of a queue. `refused`: the limits of the form that was sent, which is shown again."""
    target = minutes(visit.query("drain")) or None
    found, sizing, drawn = await asyncio.gather(
        visit.get(f"/queues/{name}"), visit.get(f"/queues/{name}/sizing", drain_within=target), _charts(visit, name)
    )
    typed_in = {field: visit.field(field) for field in (*LIMITS, "rate_jobs", "rate_per")} if refused else _typed(found)
    return visit.show(
        "queue.html", f"Queue {name}", refused.status if refused else 200, queue=found, sizing=sizing, charts=drawn,
        waiting=await _waiting(visit, found), limits=LIMITS, values=typed_in, may_set=_may_set(visit),
        states=",".join(WAITING), refused=refused.sentence if refused else "",
    )  # fmt: skip


def _may_set(visit: Visit) -> bool:
    return visit.may("queues:admin", "operator")


def _typed(queue: Queue) -> dict[str, Any]:
    """The limits as fields of the form."""
    rate = queue["rate_limit"] or {"jobs": "", "per": ""}
    limits = {limit: queue[limit] or "" for limit in LIMITS}
    return limits | {"rate_jobs": rate["jobs"], "rate_per": f"{rate['per']:g}" if rate["per"] else ""}


async def _waiting(visit: Visit, queue: Queue) -> list[tuple[dict[str, Any], str]]:
    """A few jobs of each state, and why each waits."""
    states = [state for state in WAITING if queue["depth"][state] or queue["depth_of"] == "all"]
    pages = await asyncio.gather(
        *(
            visit.get("/jobs", queue=queue["name"], status=state, sort=WAITING[state], limit=EXAMPLES)
            for state in states
        )
    )
    jobs = [job for page in pages for job in page["items"]]
    said = await asyncio.gather(*(_why(visit, job["id"]) for job in jobs))
    return [(job, why) for job, why in zip(jobs, said, strict=True) if why]


async def _why(visit: Visit, job_id: str) -> str:
    """Empty if the job is not there any more."""
    try:
        return str((await visit.get(f"/jobs/{job_id}/explain"))["detail"])
    except ApiRefusal as refusal:
        if refusal.status not in (404, 410):
            raise
        return ""


async def _charts(visit: Visit, name: str) -> list[Chart]:
    """Of the last hour, minute by minute."""
    hour = await points(visit, 3600, 60, name)
    rates = chart("Jobs a minute", hour, number, accepted=lambda point: point["accepted"], ended=ended)
    return [rates, *waits(hour)]
