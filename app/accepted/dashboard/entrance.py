"""Who may enter: every page needs a session, and every form the token that only pages of ours have.

`Visitor` is the parameter of a page, `Guest` that of one that needs no session.
"""

import hmac
from functools import partial
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends
from starlette.requests import Request

from accepted.api.http.exposure import from_other_site
from accepted.api.state import state_of
from accepted.dashboard.calls import SharedAnswers
from accepted.dashboard.visit import LIVE, SESSION, Form, Visit, cookie_of
from accepted.errors import CrossSite, MalformedRequest, TooLarge
from accepted.services import sessions
from accepted.services.keys import EVERYONE
from accepted.services.sessions import Session

LONGEST_SPELLING = 3
"""Bytes of a form for a byte of what it says: `%20`."""

INDENTED = 1
"""Bytes of line breaks and indentation for a byte of JSON that a person writes."""

MORE = 64 * 1024
"""Bytes of a form beside a payload."""


class SignInNeeded(Exception):
    """There is no session, or it has ended."""


class FromElsewhere(Exception):
    """A link of another site led here, so the browser has kept the session back. It sends it when the page reloads."""


async def visit(request: Request) -> Visit:
    """Of a person with a session. Raises `SignInNeeded`, `FromElsewhere`, and for a form `CrossSite`."""
    _check_origin(request)
    token = cookie_of(request, SESSION)
    if state_of(request).settings.auth == "off":
        return await _checked(Visit(request, EVERYONE, token or sessions.new_token()))
    found = await _session(request, token) if token else None
    if found is None:
        raise SignInNeeded
    request.scope.setdefault("state", {})["tenant"] = found.who.tenant
    return await _checked(Visit(request, found.who, token, found.key_hash))


async def _session(request: Request, token: str) -> Session | None:
    """Pages of one session that read themselves again in the same moment look it up once."""
    find = partial(sessions.find, state_of(request).engine, state_of(request).keys, token)
    if LIVE not in request.headers:
        return await find()
    shared: SharedAnswers = request.app.state.dashboard.answers
    return await shared.get(("session", token), find)


async def guest(request: Request) -> Visit:
    """Of anybody. Raises `FromElsewhere`, and `CrossSite` for a form that is not ours."""
    _check_origin(request)
    return await _checked(stranger(request))


def stranger(request: Request) -> Visit:
    """The visit of somebody who is not known."""
    return Visit(request, None, cookie_of(request, SESSION) or sessions.new_token())


Visitor = Annotated[Visit, Depends(visit)]
Guest = Annotated[Visit, Depends(guest)]


def _check_origin(request: Request) -> None:
    """Without a cookie nobody is known, and a new one would take the place of that of the session."""
    unknown = request.method == "GET" and not cookie_of(request, SESSION)
    if unknown and request.headers.get("sec-fetch-site") == "cross-site":
        raise FromElsewhere


async def _checked(visit: Visit) -> Visit:
    """With its form, if one was sent."""
    visit.request.scope["accepted.visit"] = visit
    if visit.request.method != "POST":
        return visit
    if from_other_site(visit.request.scope["headers"]):
        raise CrossSite("a page of another site has sent this form")
    visit.form = await read_form(visit.request)
    is_ours = hmac.compare_digest(visit.field("csrf").encode(), visit.csrf.encode())
    if not visit.cookie(SESSION) or not is_ours:
        raise CrossSite("the form is too old, or not from a page of this service: load the page again")
    return visit


async def read_form(request: Request) -> Form:
    """The fields of an URL-encoded form. Raises `TooLarge` or `MalformedRequest`."""
    most = LONGEST_SPELLING * (1 + INDENTED) * state_of(request).settings.max_payload_bytes + MORE
    received = bytearray()
    async for piece in request.stream():
        received += piece
        if len(received) > most:
            raise TooLarge(f"the form is larger than {most} bytes")
    try:
        return parse_qs(received.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=2000)
    except ValueError as error:
        raise MalformedRequest("the form is not URL-encoded UTF-8") from error
