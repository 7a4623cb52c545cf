"""API keys of the tenant, and the audit: who changed what."""

from starlette.responses import Response

from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.confirming import ask, is_sure
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.routing import pages
from accepted.dashboard.visit import Visit
from accepted.domain.monitoring.audit import Action
from accepted.domain.tenants import SCOPES

router = pages()

PATH = "/ui/keys"


@router.get(PATH)
async def keys(visit: Visitor) -> Response:
    return await _keys(visit)


@router.post(PATH)
async def create(visit: Visitor) -> Response:
    """The page that answers is the only one that shows the secret: nothing keeps it, neither ledger nor cookie."""
    try:
        wanted = {"name": visit.field("name"), "scopes": visit.form.get("scopes", [])}
        made = (await visit.act("POST", "/keys", wanted)).value
    except ApiRefusal as refusal:
        if refusal.status != 422:
            raise
        return await _keys(visit, refusal)
    return visit.show("key.html", "A new key", 201, made=made)


@router.post(PATH + "/{key_id}/revoke")
async def revoke(visit: Visitor, key_id: str) -> Response:
    if not is_sure(visit):
        name = visit.field("name", key_id)
        sentence = f"Whoever uses key {name} is refused at once, and sessions of it end. It cannot be made valid again."
        return ask(visit, f"Revoke key {name}", sentence, "Revoke 1 key", PATH)
    done = (await visit.act("POST", f"/keys/{key_id}/revoke")).value
    return visit.go(PATH, f"Key {done['name']} is revoked.")


@router.get("/ui/audit")
async def audit(visit: Visitor) -> Response:
    action = visit.query("action")
    chosen = action if action in set(Action) else ""
    found = await visit.get("/audit", action=chosen, cursor=visit.query("cursor"))
    return visit.show(
        "audit.html", "Audit", entries=found["items"], next=found["next"], chosen=chosen,
        actions=[one.value for one in Action],
    )  # fmt: skip


async def _keys(visit: Visit, refused: ApiRefusal | None = None) -> Response:
    found = await visit.get("/keys", cursor=visit.query("cursor"))
    return visit.show(
        "keys.html", "Keys", refused.status if refused else 200, keys=found["items"], next=found["next"],
        name=visit.field("name"), scopes=[one for one in SCOPES if visit.may(one)],
        chosen=visit.form.get("scopes", ["jobs:read"]), refused=refused.sentence if refused else "",
    )  # fmt: skip
