"""Acts on many jobs, those that are selected or all that match: first how many they are, then the act."""

from time import monotonic
from typing import Any

from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.forms import typed
from accepted.dashboard.pages.jobs import ACTS, PATH, filters_of
from accepted.dashboard.routing import pages
from accepted.dashboard.texts import number
from accepted.dashboard.visit import Visit
from accepted.errors import ResourceNotFound

router = pages()

DONE = {"cancel": "cancelled", "retry": "retried", "delete": "deleted"}

PATIENCE = 8.0
"""Seconds after which no further call begins. A call takes 10 s at most, and so does counting what is left; browsers
and proxies wait for 30 s or so."""


@router.post(PATH + "/confirm")
async def confirm(visit: Visitor) -> Response:
    """What would be done, and to how many jobs. Nothing is done yet."""
    act, every = _act(visit), visit.field("which") == "all"
    ids = [] if every else visit.form.get("id", [])
    if not ids and not every:
        return visit.go(_back(visit), "No job is selected.", done=False)
    counted: dict[str, Any] = {"matched": len(ids)}
    if every:
        counted = (await visit.act("POST", f"/jobs/{act}", _selection(visit) | {"dry_run": True})).value
    return _ask(visit, act, counted, ids)


@router.post(PATH + "/act")
async def act(visit: Visitor) -> Response:
    """Do it. What has changed meanwhile, and cannot be done any more, is told."""
    act, ids = _act(visit), visit.form.get("id", [])
    if not ids:
        return await _to_all(visit, act)
    done, refused = await _to_each(visit, act, ids)
    return visit.go(_back(visit), _said(act, done) + refused, done=not refused)


async def _to_each(visit: Visit, act: str, ids: list[str]) -> tuple[int, str]:
    done, refusals = 0, []
    for job_id in ids:
        try:
            await _to_one(visit, act, job_id)
            done += 1
        except ApiRefusal as refusal:
            if refusal.status == 403:
                raise
            refusals.append(f"{job_id}: {refusal.sentence}")
    return done, " ".join(["", *refusals[:3]])


async def _to_one(visit: Visit, act: str, job_id: str) -> None:
    if act == "delete":
        await visit.act("DELETE", f"/jobs/{job_id}")
    else:
        await visit.act("POST", f"/jobs/{job_id}/{act}")


async def _to_all(visit: Visit, act: str) -> Response:
    """As many as there is time for. Then it says how many are left, and asks whether to go on."""
    selection, begun = _selection(visit), monotonic()
    before = typed(visit.field("done"))
    done = before if isinstance(before, int) else 0
    while True:
        answer = (await visit.act("POST", f"/jobs/{act}", selection)).value
        done += answer[DONE[act]]
        if answer.get("complete", True):
            return visit.go(_back(visit), _said(act, done))
        selection["cursor"] = answer["next"]
        if monotonic() - begun > PATIENCE:
            left = (await visit.act("POST", f"/jobs/{act}", selection | {"dry_run": True})).value
            return _ask(visit, act, left, done=done, cursor=answer["next"])


def _ask(
    visit: Visit, act: str, counted: dict[str, Any], ids: list[str] | None = None, done: int = 0, cursor: str = ""
) -> Response:
    """Before the first job, or, with a `cursor`, after those that are `done`."""
    return visit.show(
        "many-jobs.html", f"{act.capitalize()} jobs", act=act, counted=counted, ids=ids or [],
        wanted=filters_of(_fields(visit)), back=_back(visit), done=done, cursor=cursor,
        said=_said(act, done) if cursor else "",
    )  # fmt: skip


def _said(act: str, done: int) -> str:
    return f"{number(done)} {'job is' if done == 1 else 'jobs are'} {DONE[act]}."


def _act(visit: Visit) -> str:
    if (act := visit.field("act")) not in ACTS:
        raise ResourceNotFound
    return act


def _selection(visit: Visit) -> dict[str, object]:
    """The filters of the form as the API takes them in a body; without any, all jobs."""
    wanted = filters_of(_fields(visit))
    pairs = {name[9:-1]: value for name, value in wanted.items() if name.startswith("metadata[")}
    plain = {name: value for name, value in wanted.items() if not name.startswith("metadata[")}
    selected: dict[str, object] = {**plain, **({"metadata": pairs} if pairs else {})} or {"all": True}
    return selected | ({"cursor": visit.field("cursor")} if visit.field("cursor") else {})


def _fields(visit: Visit) -> dict[str, str]:
    return {name: visit.field(name) for name in visit.form}


def _back(visit: Visit) -> str:
    query = visit.field("query")
    return f"{PATH}?{query}" if query else PATH
