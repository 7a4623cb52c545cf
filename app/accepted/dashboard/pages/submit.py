"""Submit a job by a form made from the JSON Schema of its type. What is wrong is said as the API says it."""

from typing import Any
from uuid import uuid4

import msgspec
from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal, wrong_input
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.forms import raw, typed
from accepted.dashboard.hiding import NothingToKeep, has_mask
from accepted.dashboard.payloads import not_there, types_of
from accepted.dashboard.routing import pages
from accepted.dashboard.schema_form import PREFIX, fields_of, payload_of
from accepted.dashboard.visit import Visit

router = pages()

PATH = "/ui/submit"

OPTIONS = {"queue": "Queue", "priority": "Priority, 0 to 9", "delay": "Start in seconds", "tags": "Tags, with commas"}
"""Fields of a job beside its payload, and their labels."""


@router.get(PATH)
async def choose(visit: Visitor) -> Response:
    """The types, or the form of the chosen one."""
    visit.must("jobs:write")
    return await _form(visit, visit.query("type"), {})


@router.post(PATH)
async def submit(visit: Visitor) -> Response:
    type_, given = visit.field("type"), {name: visit.field(name) for name in visit.form}
    fields = fields_of((await _types(visit)).get(type_, {}).get("payload_schema", {}))
    is_json = fields is None or bool(visit.field("as_json"))
    body: dict[str, object] = {name: typed(given[name]) for name in ("priority", "delay") if given.get(name)}
    if given.get("queue"):
        body["queue"] = given["queue"]
    if given.get("tags"):
        body["tags"] = [one.strip() for one in given["tags"].split(",")]
    payload = raw(given.get("payload", "")) if is_json or fields is None else payload_of(fields, given)
    try:
        if isinstance(payload, msgspec.Raw) and has_mask(given.get("payload", "")):
            await _check_masks(visit, type_, payload)
        job = (await visit.act("POST", "/jobs", body | {"type": type_, "payload": payload}, visit.field("key"))).value
    except ApiRefusal as refusal:
        if refusal.status not in (400, 413, 422, 429):
            raise
        return await _form(visit, type_, given, refusal)
    return visit.go(f"/ui/jobs/{job['id']}", "The job is accepted.")


async def _form(visit: Visit, type_: str, given: dict[str, str], refused: ApiRefusal | None = None) -> Response:
    types = await _types(visit)
    chosen = types.get(type_)
    fields = fields_of(chosen["payload_schema"]) if chosen else None
    is_json = fields is None or bool(given.get("as_json") or visit.query("as") == "json")
    return visit.show(
        "submit.html", f"Submit {type_}" if chosen else "Submit", refused.status if refused else 200, types=types,
        chosen=chosen, fields=[] if is_json else fields, is_json=is_json, has_fields=fields is not None, given=given,
        options=OPTIONS, refused=refused.sentence if refused else "", wrong=_wrong(refused),
        key=uuid4().hex,
    )  # fmt: skip


async def _check_masks(visit: Visit, type_: str, payload: msgspec.Raw) -> None:
    """A payload that was copied from a page has no hidden values. Raises `ApiRefusal`."""
    types = await types_of(visit)
    try:
        types.restored(type_, bytes(payload), b"{}")
    except NothingToKeep as error:
        raise wrong_input(f"payload{not_there(error)}") from None
    except msgspec.DecodeError:
        return  # the API says what is wrong with it


async def _types(visit: Visit) -> dict[str, dict[str, Any]]:
    found = await visit.get("/job-types")
    return {one["name"]: one for one in found["items"]}


def _wrong(refused: ApiRefusal | None) -> dict[str, str]:
    """What is wrong, by the field of the form."""
    listed = refused.problem.get("errors") or [] if refused else []
    return {one["pointer"].removeprefix("/").replace("payload/", PREFIX, 1): one["detail"] for one in listed}
