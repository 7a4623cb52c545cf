"""Signing in with an API key, and out again."""

from starlette.responses import Response

from accepted.dashboard.entrance import Guest
from accepted.dashboard.routing import SIGN_IN, own_path, pages
from accepted.domain.ids import link
from accepted.services import sessions

router = pages()

REFUSED = "This API key is unknown or revoked. Make one with: accepted keys create"


@router.get(SIGN_IN)
async def form(visit: Guest) -> Response:
    if visit.state.settings.auth == "off":
        return visit.go("/")
    return _form(visit, own_path(visit.request.query_params.get("next", "/")))


@router.post(SIGN_IN)
async def sign_in(visit: Guest) -> Response:
    wanted = own_path(visit.field("next", "/"))
    state = visit.state
    token = await sessions.begin(state.engine, state.keys, visit.field("key"))
    if token is None:
        return _form(visit, wanted, REFUSED)
    return visit.remember(visit.go(wanted), token)


@router.post("/ui/sign-out")
async def sign_out(visit: Guest) -> Response:
    await sessions.end(visit.state.engine, visit.token)
    return visit.remember(visit.go(SIGN_IN, "You have signed out."), sessions.new_token())


def _form(visit: Guest, wanted: str, refused: str = "") -> Response:
    status = 403 if refused else 200
    return visit.show("sign-in.html", "Sign in", status, wanted=wanted, refused=refused, action=link(SIGN_IN))
