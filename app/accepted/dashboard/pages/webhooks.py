"""Webhooks: what was sent to whom and what came back, and which receivers are held back because they fail."""

from collections import Counter
from typing import Any

from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.routing import pages
from accepted.domain.job import FINISHED, Status
from accepted.domain.network.targets import key_of

router = pages()

PATH = "/ui/webhooks"

COUNTED = 100
"""Last deliveries by which the success rate of each receiver is counted, and that a page lists."""


@router.get(PATH)
async def webhooks(visit: Visitor) -> Response:
    status = visit.query("status")
    chosen = status if status in set(Status) else ""
    found = await visit.get("/webhook-deliveries", limit=COUNTED, status=chosen, cursor=visit.query("cursor"))
    held = (await visit.get("/targets"))["items"] if visit.may("jobs:read") else []
    return visit.show(
        "webhooks.html", "Webhooks", deliveries=found["items"], next=found["next"], held=held, chosen=chosen,
        receivers=[] if chosen else _receivers(found["items"]), statuses=[one.value for one in Status],
        finished={one.value for one in FINISHED},
    )  # fmt: skip


@router.post(PATH + "/{delivery_id}/redeliver")
async def redeliver(visit: Visitor, delivery_id: str) -> Response:
    try:
        await visit.act("POST", f"/webhook-deliveries/{delivery_id}/redeliver")
    except ApiRefusal as refusal:
        if refusal.status != 409:
            raise
        return visit.go(PATH, refusal.sentence, done=False)
    return visit.go(PATH, "The webhook is sent again.")


@router.post(PATH + "/release")
async def release(visit: Visitor) -> Response:
    host = visit.field("host")
    try:
        done = (await visit.act("POST", f"/targets/{host}/release")).value
    except ApiRefusal as refusal:
        if refusal.status != 404:
            raise
        return visit.go(PATH, f"{host} is called as usual already: it has answered, or somebody has released it.")
    return visit.go(
        PATH, f"{host} is called as usual again. Jobs that waited for it and are released: {done['released']}."
    )


def _receivers(deliveries: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Each receiver with the deliveries that have ended, and those of them that succeeded; the worst first."""
    ended, succeeded = Counter[str](), Counter[str]()
    for one in deliveries:
        if one["status"] in FINISHED:
            host = key_of(one["url"])
            ended[host] += 1
            succeeded[host] += one["status"] == Status.SUCCEEDED
    return sorted(((host, many, succeeded[host]) for host, many in ended.items()), key=lambda one: one[2] / one[1])
