"""Schedules: when each has run and will run, what it has missed, and what a change of the clock does to it."""

import asyncio
from typing import Any

import msgspec
from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal, wrong_input
from accepted.dashboard.confirming import ask, is_sure
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.forms import minutes, raw
from accepted.dashboard.hiding import Members, NothingToKeep, has_mask
from accepted.dashboard.payloads import not_there, types_of
from accepted.dashboard.routing import pages
from accepted.dashboard.texts import editable
from accepted.dashboard.visit import Visit
from accepted.domain import json_text
from accepted.domain.schedule import MISSED

router = pages()

PATH = "/ui/schedules"
NEW = "/ui/new-schedule"
"""Not below `PATH`: a schedule may have any name."""

SHOWN = 20
"""Schedules on a page. Each asks for its last runs."""

LOOKED_AT = 20
"""Last runs in which missed ones are counted."""

CHOICES = {
    "on_missed": {"skip": "skip them", "run_once": "run once", "run_all": "run all of them"},
    "overlap": {"allow": "run beside it", "skip": "skip this run"},
}

EMPTY = {
    "name": "", "cron": "", "timezone": "UTC", "on_missed": "skip", "overlap": "allow", "spread_over": "0",
    "job": '{\n  "type": "",\n  "payload": {}\n}',
}  # fmt: skip
"""The fields of a new schedule."""

Shown = dict[str, Any]


@router.get(PATH)
async def schedules(visit: Visitor) -> Response:
    found = await visit.get("/schedules", limit=SHOWN, cursor=visit.query("cursor"))
    shown = await asyncio.gather(*(_with_runs(visit, one, LOOKED_AT) for one in found["items"]))
    return visit.show("schedules.html", "Schedules", schedules=shown, next=found["next"])


@router.get(NEW)
async def new(visit: Visitor) -> Response:
    visit.must("jobs:write")
    return visit.show("schedule-form.html", "New schedule", values=EMPTY, choices=CHOICES, preview=None, refused="")


@router.post(NEW)
async def put(visit: Visitor) -> Response:
    """Preview or write the schedule of the form."""
    values = {field: visit.field(field) for field in (*EMPTY, "enabled")}
    preview, refused, status = None, "", 200
    try:
        preview = (await visit.act("POST", "/schedules/preview", _line(values))).value
        if visit.field("act") != "preview":
            await _write(visit, values)
            return visit.go(f"{PATH}/{values['name']}", f"Schedule {values['name']} is written.")
    except ApiRefusal as refusal:
        if refusal.status not in (400, 422):
            raise
        refused, status = refusal.sentence, 422
    return visit.show(
        "schedule-form.html", "Schedule", status, values=values, choices=CHOICES, preview=preview, refused=refused
    )


@router.get(PATH + "/{name}")
async def schedule(visit: Visitor, name: str) -> Response:
    found = await _with_runs(visit, await visit.get(f"/schedules/{name}"), 50)
    values = found["schedule"] | {
        "job": await _editable(visit, found["schedule"]["job"]),
        "spread_over": f"{found['schedule']['spread_over'] / 60:g}",
    }
    return visit.show(
        "schedule.html", f"Schedule {name}", **found, values=values, choices=CHOICES, preview=None, refused=""
    )


@router.post(PATH + "/{name}/trigger")
async def trigger(visit: Visitor, name: str) -> Response:
    job = (await visit.act("POST", f"/schedules/{name}/trigger")).value
    return visit.go(f"{PATH}/{name}", f"Job {job['id']} is submitted.")


@router.post(PATH + "/{name}/enable")
async def enable(visit: Visitor, name: str) -> Response:
    return await _set_enabled(visit, name, True)


@router.post(PATH + "/{name}/disable")
async def disable(visit: Visitor, name: str) -> Response:
    return await _set_enabled(visit, name, False)


@router.post(PATH + "/{name}/delete")
async def delete(visit: Visitor, name: str) -> Response:
    if not is_sure(visit):
        sentence = f"Schedule {name} fires no more. Jobs that it has submitted stay."
        return ask(visit, f"Delete schedule {name}", sentence, "Delete 1 schedule", f"{PATH}/{name}")
    await visit.act("DELETE", f"/schedules/{name}")
    return visit.go(PATH, f"Schedule {name} is deleted.")


async def _write(visit: Visit, values: Shown) -> None:
    """Write the schedule of the form. Raises `ApiRefusal`, also for a name with which the API has no path."""
    name = values["name"]
    if not name or "/" in name:
        raise wrong_input("name: must be a name without slashes")
    body = _line(values) | {
        "job": await _job_of(visit, values), "on_missed": values["on_missed"], "overlap": values["overlap"],
        "spread_over": minutes(values["spread_over"]), "enabled": bool(values["enabled"]),
    }  # fmt: skip
    await visit.act("PUT", f"/schedules/{name}", body)


async def _editable(visit: Visit, job: Shown) -> str:
    """The job as the form shows it."""
    if "payload" in job:
        payload = (await types_of(visit)).masked(job["type"], json_text.encode(job["payload"]))
        job = job | {"payload": msgspec.Raw(payload)}
    return editable(json_text.encode(job), visit.state.settings.max_payload_bytes)


async def _job_of(visit: Visit, values: Shown) -> msgspec.Raw:
    """The job that was typed, with the hidden values of the schedule's payload. Raises `ApiRefusal`."""
    typed = raw(values["job"])
    if not has_mask(values["job"]):
        return typed
    before, types = await asyncio.gather(_job_before(visit, values["name"]), types_of(visit))
    try:
        job = msgspec.json.decode(typed, type=Members)
        type_ = msgspec.json.decode(job["type"], type=str)
        stored = json_text.encode(before.get("payload", {}) if type_ == before["type"] else {})
        job["payload"] = msgspec.Raw(types.restored(type_, bytes(job["payload"]), stored))
    except NothingToKeep as error:
        raise wrong_input(f"job/payload{not_there(error)}") from None
    except (msgspec.DecodeError, KeyError):
        return typed  # the API says what is wrong with it
    return msgspec.Raw(msgspec.json.encode(job))


async def _job_before(visit: Visit, name: str) -> Shown:
    """That of the schedule as it is; of a new one, one without a payload."""
    try:
        return dict((await visit.get(f"/schedules/{name}"))["job"])
    except ApiRefusal as refusal:
        if refusal.status != 404:
            raise
        return {"type": ""}


async def _set_enabled(visit: Visit, name: str, enabled: bool) -> Response:
    """Written as it is, but for this."""
    found = await visit.get(f"/schedules/{name}")
    written = ("cron", "timezone", "job", "on_missed", "overlap", "spread_over")
    await visit.act("PUT", f"/schedules/{name}", {field: found[field] for field in written} | {"enabled": enabled})
    back = PATH if visit.field("from") == "list" else f"{PATH}/{name}"
    return visit.go(back, f"Schedule {name} is {'enabled' if enabled else 'disabled'}.")


async def _with_runs(visit: Visit, one: Shown, limit: int) -> Shown:
    """The schedule with its last runs, how many of them it has missed, and warnings of changes of the clock."""
    runs, warnings = await asyncio.gather(
        visit.get(f"/schedules/{one['name']}/runs", limit=limit), _warnings(visit, one)
    )
    missed = sum(run["reason"] == MISSED for run in runs["items"])
    return {"schedule": one, "runs": runs["items"], "missed": missed, "warnings": warnings}


async def _warnings(visit: Visit, one: Shown) -> list[str]:
    """None for a line that can no longer be read, which its next runs say."""
    try:
        line = {"cron": one["cron"], "timezone": one["timezone"], "count": 1}
        found: list[str] = (await visit.act("POST", "/schedules/preview", line)).value["warnings"]
    except ApiRefusal as refusal:
        if refusal.status != 422:
            raise
        return []
    return found


def _line(values: Shown) -> Shown:
    return {"cron": values["cron"], "timezone": values["timezone"] or "UTC"}
