"""One job: why it is where it is, what has happened to it, and all that belongs to it."""

import asyncio
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.payloads import PayloadTypes, types_of
from accepted.dashboard.routing import pages
from accepted.dashboard.timeline import timeline
from accepted.dashboard.visit import Visit
from accepted.domain import json_text
from accepted.domain.job import FINISHED, INTERNAL_TYPES, RETRYABLE, Status

router = pages()

COPIED = ("type", "queue", "priority", "tags", "metadata")
"""What a job that is submitted again has of the first one, beside its payload."""

MOST_RELATIVES = 100
MOST_LINES = 500
"""Of one page; the API has all."""

MOST_COPIED = 4096
"""Bytes of a payload in a command line. A larger one is read from a file."""


@router.get("/ui/jobs/{job_id}")
async def job(visit: Visitor, job_id: UUID) -> Response:
    answer = await visit.answer(f"/jobs/{job_id}")
    shown, raw = answer.value, msgspec.json.decode(answer.body, type=dict[str, msgspec.Raw])
    attempts, explained, lines, family, deliveries, batch, types = await asyncio.gather(
        visit.get(f"/jobs/{job_id}/attempts", limit=200),
        visit.get(f"/jobs/{job_id}/explain"),
        visit.get(f"/jobs/{job_id}/logs", limit=MOST_LINES),
        visit.get("/jobs", root_id=shown["root_id"], limit=MOST_RELATIVES),
        _if_there(visit, "/webhook-deliveries", job_id=job_id),
        _if_there(visit, f"/batches/{shown['batch_id']}" if shown["batch_id"] else ""),
        types_of(visit),
    )
    payload = types.masked(shown["type"], bytes(raw["payload"]))
    return visit.show(
        "job.html", f"{shown['type']} {str(job_id)[-8:]}",
        job=shown, payload=payload, result=bytes(raw["result"]), attempts=attempts["items"],
        edits=_edits(types, shown["type"], attempts.get("edits", [])), explained=explained, lines=lines,
        family=tree(family["items"]), more_family=family["next"] is not None,
        deliveries=(deliveries or {"items": []})["items"], batch=batch,
        timeline=timeline(shown, attempts["items"], datetime.now(UTC)), curl=_curl(visit, shown, payload),
        can=_acts(visit, shown), live=f"?job={job_id}",
    )  # fmt: skip


async def _if_there(visit: Visit, path: str, **query: object) -> Any:
    """None for what does not exist any more, or may not be seen."""
    if not path:
        return None
    try:
        return await visit.get(path, **query)
    except ApiRefusal as refusal:
        if refusal.status in (403, 404, 410):
            return None
        raise


def _acts(visit: Visit, job: Mapping[str, Any]) -> set[str]:
    """What this person can do to it now."""
    if not visit.may("jobs:write"):
        return set()
    status, own = Status(job["status"]), job["type"] not in INTERNAL_TYPES
    can = {
        "cancel": status not in FINISHED,
        "retry": status in RETRYABLE,
        "edit": status is Status.FAILED and own,
        "again": own,
        "delete": status is not Status.RUNNING,
    }
    return {act for act, possible in can.items() if possible}


def tree(family: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Each job below its parent, with its depth."""
    ids = {one["id"] for one in family}
    children: dict[str | None, list[dict[str, Any]]] = {}
    for one in sorted(family, key=lambda one: str(one["id"]), reverse=True):
        children.setdefault(one["parent_id"] if one["parent_id"] in ids else None, []).append(one)
    found, below = [], [(0, one) for one in children.get(None, [])]
    while below:
        depth, one = below.pop()
        found.append((depth, one))
        below += [(depth + 1, child) for child in children.get(one["id"], [])]
    return found


def _edits(types: PayloadTypes, type_: str, edits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [edit | {"payload_before": types.masked(type_, json_text.encode(edit["payload_before"]))} for edit in edits]


def _curl(visit: Visit, job: Mapping[str, Any], payload: bytes) -> str:
    """The command that submits the job again: once, however often it is run. Empty for a type that only we submit."""
    if job["type"] in INTERNAL_TYPES:
        return ""
    given = {name: job[name] for name in COPIED if job[name]}
    large = len(payload) > MOST_COPIED
    body = msgspec.json.encode({**given, "payload": {} if large else msgspec.Raw(payload)}).decode()
    key = [] if visit.key_hash is None else ['-H "Authorization: Bearer $ACCEPTED_API_KEY"']
    data = "--data @job.json" if large else f"--data {shlex.quote(body)}"
    lines = [
        f"curl {shlex.quote(f'{visit.request.base_url}jobs')}", *key, "-H 'Content-Type: application/json'",
        f"-H 'Idempotency-Key: {uuid4()}'", data,
    ]  # fmt: skip
    return " \\\n  ".join(lines)
