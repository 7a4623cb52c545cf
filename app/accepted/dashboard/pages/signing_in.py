"""Signing in with an API key, and out again."""

from starlette.responses import Response

from accepted.dashboard.entrance import Guest
from accepted.dashboard.routing import SIGN_IN, kept_form, own_path, pages, sign_in_page
from accepted.dashboard.visit import Form, Visit
from accepted.services import sessions

router = pages()

REFUSED = "This API key is unknown or revoked. Make one with: accepted keys create"


@router.get(SIGN_IN)
async def form(visit: Guest) -> Response:
    if visit.state.settings.auth == "off":
        return visit.go("/")
    return sign_in_page(visit, own_path(visit.request.query_params.get("next", "/")))


@router.post(SIGN_IN)
async def sign_in(visit: Guest) -> Response:
    wanted, kept = own_path(visit.field("next", "/")), kept_form(visit.form)
    state = visit.state
    token = await sessions.begin(state.engine, state.keys, visit.field("key"))
    if token is None:
        return sign_in_page(visit, wanted, REFUSED, kept)
    if kept is not None:
        return await _send_again(visit, token, wanted, kept)
    return visit.remember(visit.go(wanted), token)


@router.post("/ui/sign-out")
async def sign_out(visit: Guest) -> Response:
    await sessions.end(visit.state.engine, visit.token)
    return visit.remember(visit.go(SIGN_IN, "You have signed out."), sessions.new_token())


async def _send_again(visit: Visit, token: str, wanted: str, kept: Form) -> Response:
    """A page with the form that was sent without a session. It is sent only if the person says so."""
    found = await sessions.find(visit.state.engine, visit.state.keys, token)
    if found is None:
        return sign_in_page(visit, wanted, REFUSED, kept)
    known = Visit(visit.request, found.who, token, found.key_hash)
    return known.show("send-again.html", "Send it now?", wanted=wanted, kept=kept)
