"""A request for a page: who asks, what the form says, and the answers that a page can give.

A browser holds one cookie: the token of its session, or, where no session is needed, a token that nobody else knows.
From it comes the token that every form carries (`csrf`), so a page of another site can send no form that counts.
"""

import base64
import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from accepted.api.state import State, state_of
from accepted.dashboard import templates
from accepted.dashboard.calls import Answer, SharedAnswers, call
from accepted.dashboard.menu import entries
from accepted.domain.ids import link
from accepted.errors import Forbidden
from accepted.services.keys import Principal
from accepted.services.sessions import LASTS

SESSION = "accepted_session"
FLASH = "accepted_flash"
FLASH_FOR = 30
"""Seconds in which the next page shows what an act has done."""

LIVE = "x-live"
"""The header of a page that is read again because something has changed."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Of every page."""

Form = Mapping[str, list[str]]


def cookie_of(request: Request, name: str) -> str:
    """The value of one of our cookies; empty if there is none."""
    return request.cookies.get(_cookie_name(request, name), "")


def _cookie_name(request: Request, name: str) -> str:
    """With port and prefix: a browser sends the cookies of one port to all of them, and those of `/` to each prefix."""
    port = request.headers.get("host", "").rpartition(":")[2]
    parts = [port if port.isdecimal() else "", *link("").split("/")]
    return "_".join([name, *filter(None, parts)])


class Visit:
    """`who` is None before signing in. `key_hash` is that of the session's API key; None where none is needed."""

    def __init__(self, request: Request, who: Principal | None, token: str, key_hash: bytes | None = None) -> None:
        self.request = request
        self.token = token
        self.key_hash = key_hash
        self.form: Form = {}
        self._who = who

    @property
    def known(self) -> bool:
        """Whether somebody has signed in, or need not."""
        return self._who is not None

    @property
    def who(self) -> Principal:
        assert self._who is not None, "only pages that need no session are shown before signing in"
        return self._who

    @property
    def state(self) -> State:
        return state_of(self.request)

    @property
    def csrf(self) -> str:
        """What every form of this browser carries."""
        made = hashlib.sha256(b"csrf " + self.token.encode()).digest()
        return base64.urlsafe_b64encode(made).decode().rstrip("=")

    def may(self, *scopes: str) -> bool:
        """Whether one of `scopes` is granted: what a person may not do is not shown."""
        return self._who is not None and not self._who.scopes.isdisjoint(scopes)

    def must(self, scope: str) -> None:
        """For a page that is nothing but a form. Raises `Forbidden`."""
        if not self.may(scope):
            raise Forbidden(f"this API key lacks the scope {scope}")

    def cookie(self, name: str) -> str:
        return cookie_of(self.request, name)

    async def is_over(self) -> bool:
        """Whether the session's key was revoked meanwhile. Raises `LedgerUnavailable`."""
        return self.key_hash is not None and await self.state.keys.principal_of(self.key_hash) is None

    def field(self, name: str, otherwise: str = "") -> str:
        """A field of the form that was sent; the last value of several."""
        return (self.form.get(name) or [otherwise])[-1]

    def query(self, name: str, otherwise: str = "") -> str:
        """A parameter of the address."""
        return self.request.query_params.get(name, otherwise)

    async def get(self, path: str, **query: object) -> Any:
        """The JSON that the API answers to this GET. Raises `ApiRefusal`."""
        return (await self.answer(path, **query)).value

    async def answer(self, path: str, **query: object) -> Answer:
        """The whole answer."""
        read = partial(call, self.request, self.who, "GET", path, query)
        if LIVE not in self.request.headers:
            return await read()
        shared: SharedAnswers = self.request.app.state.dashboard.answers
        key = (link(""), self.who.tenant, self.who.scopes, path, tuple(query.items()))
        return await shared.get(key, read)

    async def act(self, method: str, path: str, body: object = None, key: str = "") -> Answer:
        """What the API answers to this POST, PUT, PATCH or DELETE, with an idempotency key. Raises `ApiRefusal`."""
        return await call(self.request, self.who, method, path, {}, body, key)

    def show(self, template: str, title: str, status: int = 200, **values: Any) -> Response:
        """A page."""
        flash = unquote(self.cookie(FLASH)) if LIVE not in self.request.headers else ""
        done, _, said = flash.partition(" ")
        context = {
            "visit": self, "title": title, "menu": entries(self.may), "here": self._path(),
            "flash": {"done": done == "done", "said": said} if said else None,
        }  # fmt: skip
        answer = HTMLResponse(templates.render(template, **context, **values), status, HEADERS)
        if said:
            self._set(answer, FLASH, "", 0)
        if self.cookie(SESSION) != self.token:
            self._set(answer, SESSION, self.token, LASTS)
        return answer

    def go(self, path: str, said: str = "", *, done: bool = True) -> Response:
        """On to another page, which shows what was `said`. `done`: it is no refusal."""
        answer = RedirectResponse(link(path), 303, HEADERS)
        if said:
            self._set(answer, FLASH, quote(f"{'done' if done else 'refused'} {said[:1000]}"), FLASH_FOR)
        return answer

    def remember(self, answer: Response, token: str) -> Response:
        """Let the browser hold this session."""
        self._set(answer, SESSION, token, LASTS)
        return answer

    def _path(self) -> str:
        return str(self.request.scope["path"]).removeprefix(self.request.scope["root_path"])

    def _set(self, answer: Response, name: str, value: str, seconds: int) -> None:
        answer.set_cookie(
            _cookie_name(self.request, name), value, seconds, path=link("/"), httponly=True, samesite="strict",
            secure=self.request.scope["scheme"] == "https",
        )  # fmt: skip
