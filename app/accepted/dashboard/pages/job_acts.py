"""What can be done to one job."""

import asyncio
from collections.abc import Mapping
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.hiding import NothingToKeep, has_mask
from accepted.dashboard.pages.job import COPIED
from accepted.dashboard.payloads import not_there, types_of
from accepted.dashboard.routing import pages
from accepted.dashboard.texts import editable
from accepted.dashboard.visit import Visit

router = pages()

SAID = {"cancel": "The job is cancelled, or will be as soon as its worker is told.", "retry": "The job runs again."}


@router.get("/ui/jobs/{job_id}/edit")
async def edit(visit: Visitor, job_id: UUID) -> Response:
    """A form with the payload."""
    raw, types = await asyncio.gather(_raw(visit, job_id), types_of(visit))
    payload = types.masked(_type(raw), bytes(raw["payload"]))
    return _editor(visit, job_id, editable(payload, visit.state.settings.max_payload_bytes))


@router.post("/ui/jobs/{job_id}/edit")
async def replay(visit: Visitor, job_id: UUID) -> Response:
    """Run a failed job again with the payload of the form."""
    text = visit.field("payload")
    try:
        payload = await _typed(visit, job_id, text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        return _editor(visit, job_id, text, f"This is no JSON: {error}")
    except NothingToKeep as error:
        return _editor(visit, job_id, text, not_there(error))
    try:
        await visit.act("POST", f"/dead-letters/{job_id}/replay", {"payload": payload})
    except ApiRefusal as refusal:
        if refusal.status == 403:
            raise
        return _editor(visit, job_id, text, refusal.sentence)
    return visit.go(f"/ui/jobs/{job_id}", "The job runs again, with the new payload.")


@router.post("/ui/jobs/{job_id}/again")
async def again(visit: Visitor, job_id: UUID) -> Response:
    """Submit a new job like this one."""
    raw = await _raw(visit, job_id)
    try:
        made = await visit.act("POST", "/jobs", {name: raw[name] for name in (*COPIED, "payload")}, uuid4().hex)
    except ApiRefusal as refusal:
        return _refused(visit, job_id, refusal)
    return visit.go(f"/ui/jobs/{made.value['id']}", "This is a new job like the other one.")


@router.post("/ui/jobs/{job_id}/delete")
async def delete(visit: Visitor, job_id: UUID) -> Response:
    try:
        await visit.act("DELETE", f"/jobs/{job_id}")
    except ApiRefusal as refusal:
        return _refused(visit, job_id, refusal)
    return visit.go("/ui/jobs", f"Job {job_id} is deleted.")


@router.post("/ui/jobs/{job_id}/redeliver/{delivery_id}")
async def redeliver(visit: Visitor, job_id: UUID, delivery_id: UUID) -> Response:
    """Send a webhook about the job again."""
    try:
        await visit.act("POST", f"/webhook-deliveries/{delivery_id}/redeliver")
    except ApiRefusal as refusal:
        return _refused(visit, job_id, refusal)
    return visit.go(f"/ui/jobs/{job_id}", "The webhook is sent again.")


@router.post("/ui/jobs/{job_id}/{act}")
async def act(visit: Visitor, job_id: UUID, act: Literal["cancel", "retry"]) -> Response:
    try:
        await visit.act("POST", f"/jobs/{job_id}/{act}")
    except ApiRefusal as refusal:
        return _refused(visit, job_id, refusal)
    return visit.go(f"/ui/jobs/{job_id}", SAID[act])


def _refused(visit: Visit, job_id: UUID, refusal: ApiRefusal) -> Response:
    """Back to the job with the reason, which often is that it has changed; a person without the scope gets 403."""
    if refusal.status in (403, 404, 410):
        raise refusal
    return visit.go(f"/ui/jobs/{job_id}", refusal.sentence, done=False)


def _editor(visit: Visit, job_id: UUID, text: str, refused: str = "") -> Response:
    status = 422 if refused else 200
    return visit.show("edit.html", "Edit and retry", status, job_id=job_id, text=text, refused=refused)


async def _typed(visit: Visit, job_id: UUID, text: str) -> msgspec.Raw:
    """The payload that was typed, with the hidden values that the job has."""
    payload = msgspec.json.format(text.encode(), indent=0)
    if has_mask(text):
        raw, types = await asyncio.gather(_raw(visit, job_id), types_of(visit))
        payload = types.restored(_type(raw), payload, bytes(raw["payload"]))
    return msgspec.Raw(payload)


def _type(raw: Mapping[str, msgspec.Raw]) -> str:
    return msgspec.json.decode(raw["type"], type=str)


async def _raw(visit: Visit, job_id: UUID) -> dict[str, Any]:
    """The job with its fields as they are stored."""
    return msgspec.json.decode((await visit.answer(f"/jobs/{job_id}")).body, type=dict[str, msgspec.Raw])
