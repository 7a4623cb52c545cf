"""The live processes: what each runs, how it fares, and how one is asked to end."""

from uuid import UUID

from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.routing import pages

router = pages()

PATH = "/ui/workers"

KINDS = {"worker": "Workers", "scheduler": "Schedulers", "api": "API"}


@router.get(PATH)
async def workers(visit: Visitor) -> Response:
    found = (await visit.get("/workers"))["items"]
    groups = [(name, [one for one in found if one["kind"] == kind]) for kind, name in KINDS.items()]
    return visit.show("workers.html", "Workers", groups=groups, may_drain=visit.may("admin", "operator"))


@router.post(PATH + "/{process_id}/drain")
async def drain(visit: Visitor, process_id: UUID) -> Response:
    try:
        answer = await visit.act("POST", f"/workers/{process_id}/drain")
    except ApiRefusal as refusal:
        if refusal.status == 403:
            raise
        return visit.go(PATH, refusal.sentence, done=False)
    return visit.go(PATH, f"{answer.value['name']} takes no more, finishes what it has, and ends.")
