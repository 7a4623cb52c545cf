"""A search for jobs: filters, states as tabs, and a page of what was found."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.routing import pages
from accepted.dashboard.visit import Visit
from accepted.domain.job import RETRYABLE, Status
from accepted.services.jobs.many import CANCELLABLE, DELETABLE

router = pages()

PATH = "/ui/jobs"

FILTERS = {
    "queue": "Queue", "type": "Type", "tag": "Tag", "error_class": "Error class", "error_text": "Error says",
    "created_after": "Created after", "created_before": "Created before", "batch_id": "Batch", "root_id": "Root",
}  # fmt: skip
"""The filters of `GET /jobs` that have a field, and its label. The status has tabs."""

SELDOM = frozenset({"created_after", "created_before", "batch_id", "root_id"})
"""Shown only once they are used, or asked for."""

ACTS = {"cancel": CANCELLABLE, "retry": RETRYABLE, "delete": DELETABLE}
"""What can be done to several jobs, and in which states."""

_PAIR = "metadata["


@router.get(PATH)
async def jobs(visit: Visitor) -> Response:
    wanted = filters_of(visit.request.query_params)
    found: dict[str, Any] = {"items": [], "next": None, "complete": True}
    refused = ""
    queues, types = await asyncio.gather(visit.get("/queues"), visit.get("/job-types"))
    try:
        found = await visit.get("/jobs", cursor=visit.query("cursor"), **wanted)
    except ApiRefusal as refusal:
        if refusal.status != 422:
            raise
        refused = refusal.sentence
    return visit.show(
        "jobs.html", "Jobs", 422 if refused else 200,
        found=found, refused=refused, wanted=wanted, labels=FILTERS, seldom=SELDOM, tabs=_tabs(visit, wanted, queues),
        names={"queue": _names(queues), "type": _names(types)}, acts=acts_on(wanted) if visit.may("jobs:write") else [],
        query=urlencode(wanted), paged=bool(visit.query("cursor")), path=PATH,
    )  # fmt: skip


def filters_of(given: Mapping[str, str]) -> dict[str, str]:
    """The filters that are used, as `GET /jobs` takes them."""
    return {
        name: value.strip()
        for name, value in given.items()
        if value.strip() and (name in FILTERS or name in ("status", "parent_id") or name.startswith(_PAIR))
    }


def acts_on(wanted: Mapping[str, str]) -> list[str]:
    """What can be done to jobs of the states that are wanted."""
    statuses = frozenset(wanted.get("status", "").split(",")) - {""}
    return [act for act, states in ACTS.items() if not statuses or not states.isdisjoint(statuses)]


def _names(answer: dict[str, Any]) -> list[str]:
    return [one["name"] for one in answer["items"]]


def _tabs(visit: Visit, wanted: dict[str, str], queues: dict[str, Any]) -> list[tuple[str, str, int | None]]:
    """For each state its words, its query, and how many there are, as far as that is counted."""
    others = {name: value for name, value in wanted.items() if name != "status"}
    counted: Counter[str] = Counter()
    own = visit.key_hash is None  # one tenant has all jobs
    for queue in queues["items"] if not others.keys() - {"queue"} else []:
        if others.get("queue", queue["name"]) == queue["name"] and (own or queue["depth_of"] == "tenant"):
            counted.update(queue["depth"])
    return [("all", urlencode(others), None)] + [
        (status.value, urlencode(others | {"status": status.value}), counted.get(status.value)) for status in Status
    ]
