"""Failed jobs that await a decision: by error or one by one, replayed at a pace or discarded, each after a dry run."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response, StreamingResponse

from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.confirming import ask, is_sure
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.forms import minutes
from accepted.dashboard.routing import pages
from accepted.dashboard.texts import lasting, number
from accepted.dashboard.visit import HEADERS, Visit
from accepted.domain import json_text
from accepted.domain.failures import FailureClass

router = pages()

PATH = "/ui/dead-letters"

FILTERS = ("queue", "type", "class")

PACE = "10"
"""Minutes over which letters are replayed, unless the person says otherwise."""

LARGEST_PAGE = 200
"""Letters of one call of the API."""


@router.get(PATH)
async def dead_letters(visit: Visitor) -> Response:
    wanted = {name: visit.query(name).strip() for name in FILTERS if visit.query(name).strip()}
    each = visit.query("view") == "each"
    found: dict[str, Any] = {"items": [], "next": None}
    refused = ""
    try:
        more = {"cursor": visit.query("cursor")} if each else {"group": "error"}
        found = await visit.get("/dead-letters", **more, **wanted)
    except ApiRefusal as refusal:
        if refusal.status != 422:
            raise
        refused = refusal.sentence
    return visit.show(
        "dead-letters.html", "Dead letters", 422 if refused else 200, found=found, wanted=wanted, each=each,
        refused=refused, query=urlencode(wanted), classes=[one.value for one in FailureClass],
    )  # fmt: skip


@router.get(PATH + "/export")
async def export(visit: Visitor) -> Response:
    wanted = {name: visit.query(name) for name in FILTERS}
    first = await visit.get("/dead-letters", limit=LARGEST_PAGE, **wanted)
    headers = HEADERS | {"Content-Disposition": 'attachment; filename="dead-letters.ndjson"'}
    return StreamingResponse(_lines(visit, wanted, first), headers=headers, media_type="application/x-ndjson")


@router.post(PATH + "/replay")
async def replay(visit: Visitor) -> Response:
    if _nothing_selected(visit):
        return visit.go(PATH + "?view=each", "Select letters first.", done=False)
    selection, pace = _selection(visit), visit.field("minutes", PACE)
    wanted = selection | {"spread_over": minutes(pace)}
    refused = ""
    if is_sure(visit) and visit.field("act") != "count":
        try:
            done = (await visit.act("POST", "/dead-letters/replay", wanted)).value
            return visit.go(_back(selection), f"{_many(done['replayed'])} replayed{_over(wanted['spread_over'])}.")
        except ApiRefusal as refusal:
            if refusal.status != 422:
                raise
            refused = refusal.sentence
    matched = (await visit.act("POST", "/dead-letters/replay", selection | {"dry_run": True})).value["matched"]
    return visit.show(
        "replay.html", "Replay dead letters", 422 if refused else 200, which=_which(selection), many=_many(matched),
        matched=matched, minutes=pace, pace=_pace(matched, wanted["spread_over"]), fields=_fields(selection),
        back=_back(selection), refused=refused,
    )  # fmt: skip


@router.post(PATH + "/discard")
async def discard(visit: Visitor) -> Response:
    if _nothing_selected(visit):
        return visit.go(PATH + "?view=each", "Select letters first.", done=False)
    selection = _selection(visit)
    if is_sure(visit):
        done = (await visit.act("POST", "/dead-letters/discard", selection)).value
        return visit.go(_back(selection), f"{_many(done['discarded'])} discarded.")
    matched = (await visit.act("POST", "/dead-letters/discard", selection | {"dry_run": True})).value["matched"]
    sentence = f"{_many(matched)}{_which(selection)}. The jobs stay failed, and are no longer listed here."
    fields = dict(_fields(selection))
    return ask(visit, "Discard dead letters", sentence, f"Discard {_many(matched)}", _back(selection), **fields)


def _nothing_selected(visit: Visit) -> bool:
    """Whether a form of selected letters has none: no filter must stand in for them, because it would mean all."""
    return bool(visit.field("selected")) and not any(visit.field("ids").split(","))


def _selection(visit: Visit) -> dict[str, Any]:
    """The filters of the form, as the API takes them. What fails after the first question is not meant: `before`."""
    wanted: dict[str, Any] = {name: visit.field(name) for name in FILTERS if visit.field(name)}
    ids = [one for given in visit.form.get("ids", []) for one in given.split(",") if one]
    if ids:
        return {"ids": ids}
    return wanted | {"before": visit.field("before") or datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def _fields(selection: dict[str, Any]) -> dict[str, str]:
    return {name: ",".join(value) if name == "ids" else value for name, value in selection.items()}


def _which(selection: dict[str, Any]) -> str:
    """What is selected, as the end of a sentence."""
    if "ids" in selection:
        return " that you have selected"
    named = [f"{name} {selection[name]}" for name in FILTERS if name in selection]
    return f" of {', '.join(named)}" if named else " of all queues"


def _back(selection: dict[str, Any]) -> str:
    wanted = urlencode({name: selection[name] for name in FILTERS if name in selection})
    return f"{PATH}?{wanted}" if wanted else PATH


def _many(letters: int) -> str:
    return "1 dead letter" if letters == 1 else f"{number(letters)} dead letters"


def _over(seconds: Any) -> str:
    return f" over {lasting(seconds)}" if seconds else ""


def _pace(letters: int, seconds: Any) -> str:
    if not isinstance(seconds, int | float) or seconds <= 0 or letters < 2:
        return "They all start at once."
    return f"One starts every {lasting(seconds / letters)}."


async def _lines(visit: Visit, wanted: dict[str, str], page: dict[str, Any]) -> AsyncIterator[bytes]:
    """A letter a line, the newest failure first."""
    while True:
        yield b"".join(json_text.encode(one) + b"\n" for one in page["items"])
        if page["next"] is None:
            return
        if await visit.is_over():
            yield json_text.encode({"error": "The API key was revoked: this export is not complete."}) + b"\n"
            return
        page = await visit.get("/dead-letters", limit=LARGEST_PAGE, cursor=page["next"], **wanted)
