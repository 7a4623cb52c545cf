"""Batches and workflows: how far each is, its graph, and what can be done to the whole of it."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.confirming import ask, is_sure
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.graph import MOST, RunTimes, graph, longest_chain, run_times
from accepted.dashboard.routing import pages
from accepted.dashboard.texts import moment, number
from accepted.dashboard.visit import Visit
from accepted.domain.job import FINISHED, RETRYABLE

router = pages()

PATH = "/ui/batches"

LARGEST_PAGE = 200
"""Jobs of one call of the API."""


@router.get(PATH)
async def batches(visit: Visitor) -> Response:
    """All of them, or the one whose id was typed."""
    if wanted := visit.query("id").strip():
        return visit.go(f"{PATH}/{quote(wanted, safe='')}")
    found = await visit.get("/batches", cursor=visit.query("cursor"))
    return visit.show("batches.html", "Batches", batches=found["items"], next=found["next"], finished=_finished)


@router.get(PATH + "/{batch_id}")
async def batch(visit: Visitor, batch_id: str) -> Response:
    found = await visit.get(f"/batches/{batch_id}")
    jobs, now = found.get("jobs", []), datetime.now(UTC)
    ran = await _run_times(visit, found, now)
    chain = longest_chain(jobs, ran)
    until = moment(found["finished_at"]) if found["finished_at"] else now
    whole = (until - moment(found["created_at"])).total_seconds()
    return visit.show(
        "batch.html", "Workflow" if jobs else "Batch", batch=found, jobs=jobs, graph=graph(jobs, chain, ran), ran=ran,
        chain=chain.sentence(whole) if chain else "",
        done=_finished(found), retryable=sum(found["counts"].get(status, 0) for status in RETRYABLE),
    )  # fmt: skip


@router.post(PATH + "/{batch_id}/cancel")
async def cancel(visit: Visitor, batch_id: str) -> Response:
    back = f"{PATH}/{batch_id}"
    if not is_sure(visit):
        found = await visit.get(f"/batches/{batch_id}")
        left = _jobs(found["total"] - _finished(found))
        return ask(
            visit, "Cancel a batch", f"{left} of {number(found['total'])} not finished yet.", f"Cancel {left}", back
        )
    try:
        await visit.act("POST", f"/batches/{batch_id}/cancel")
    except ApiRefusal as refusal:
        if refusal.status != 409:
            raise
        return visit.go(back, refusal.sentence, done=False)
    return visit.go(back, "The batch is being cancelled.")


@router.post(PATH + "/{batch_id}/retry")
async def retry(visit: Visitor, batch_id: str) -> Response:
    """Those of its jobs that have ended without success."""
    wanted = {"batch_id": batch_id, "status": ",".join(sorted(RETRYABLE))}
    back = f"{PATH}/{batch_id}"
    if not is_sure(visit):
        many = _jobs((await visit.act("POST", "/jobs/retry", wanted | {"dry_run": True})).value["matched"])
        sentence = f"{many} ended without success, and will run again with a fresh retry budget."
        return ask(visit, "Retry what has failed", sentence, f"Retry {many}", back)
    done = (await visit.act("POST", "/jobs/retry", wanted)).value
    more = "" if done.get("complete", True) else " There are more: do it again to go on."
    return visit.go(back, f"{_jobs(done['retried'])} will run again.{more}", done=not more)


async def _run_times(visit: Visit, batch: dict[str, Any], now: datetime) -> RunTimes:
    """Of the jobs of a workflow that is drawn; of others none, because they would be many requests."""
    refs = {job["id"]: job["ref"] for job in batch.get("jobs", [])}
    jobs: list[dict[str, Any]] = []
    cursor: str | None = ""
    for _ in range(0, len(refs) if len(refs) <= MOST else 0, LARGEST_PAGE):
        page = await visit.get("/jobs", batch_id=batch["id"], limit=LARGEST_PAGE, cursor=cursor)
        jobs += page["items"]
        if (cursor := page["next"]) is None:
            break
    return run_times(jobs, refs, now)


def _finished(batch: dict[str, Any]) -> int:
    return sum(many for status, many in batch["counts"].items() if status in FINISHED)


def _jobs(many: int) -> str:
    return "1 job" if many == 1 else f"{number(many)} jobs"
