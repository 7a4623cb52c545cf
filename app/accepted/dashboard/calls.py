"""What a page reads and does: calls of this process's own HTTP API, by the caller that a session stands for.

So the dashboard has no rights, checks or queries of its own: scopes, tenants, limits and texts are those of the API.
The calls go to the same routes, without a connection, and without a line of their own in the request log.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Scope

from accepted.api.http.auth import KNOWN
from accepted.api.http.problems import answer_to
from accepted.api.jobs import submission
from accepted.domain import json_text
from accepted.errors import AcceptedError
from accepted.services.keys import Principal

SHARED_FOR = 2.0
"""Seconds for which pages that are read again because something has changed have the same answers."""

MOST_SHARED = 500
"""Answers that are kept. They are dropped all together when there are more."""

MOST_DIGITS = 1000
"""Python reads no longer number from text (`sys.set_int_max_str_digits`), and no person does."""

Shared = TypeVar("Shared")

_JSON = (b"content-type", b"application/json")


class ApiRefusal(Exception):
    """The API has refused a call. `problem` is its RFC 9457 answer."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["title"])
        self.problem = problem

    @property
    def status(self) -> int:
        return int(self.problem["status"])

    @property
    def sentence(self) -> str:
        """What is wrong, for people: of a wrong form its fields, each with what is expected."""
        listed = self.problem.get("errors") or []
        fields = "; ".join(f"{one['pointer'].lstrip('/')}: {one['detail']}" for one in listed)
        return fields or str(self.problem["detail"])


def wrong_input(detail: str) -> ApiRefusal:
    """The refusal of a form that the API is not asked about."""
    return ApiRefusal({"title": "Invalid request", "status": 422, "detail": detail})


class Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def value(self) -> Any:
        """The JSON of the body; None if there is none."""
        return json.loads(self.body, parse_int=_whole) if self.body else None


class SharedAnswers:
    """Pages that many people leave open read the same at the same moment: it is read once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], asyncio.Future[Any]] = {}

    async def get(self, key: tuple[object, ...], read: Callable[[], Awaitable[Shared]]) -> Shared:
        task = self._kept.get(key)
        if task is None:
            if len(self._kept) >= MOST_SHARED:
                self._kept.clear()
            task = self._kept[key] = asyncio.ensure_future(read())
            asyncio.get_running_loop().call_later(SHARED_FOR, self._kept.pop, key, None)
        found: Shared = await asyncio.shield(task)
        return found


async def call(
    request: Request,
    who: Principal,
    method: str,
    path: str,
    query: Mapping[str, object],
    body: object = None,
    key: str = "",
) -> Answer:
    """The answer of the API to this call. `query` may have None for what is left out; `key` is an idempotency key.

    Raises `ApiRefusal`.
    """
    sent = b"" if body is None else json_text.encode(body)
    given = {name: value for name, value in query.items() if value not in (None, "")}
    scope = _scope(request, who, method, path, urlencode(given, doseq=True), sent)
    if key:
        scope["headers"].append((b"idempotency-key", key.encode()))
    status, received = await _through(scope, sent)
    answer = Answer(status, received)
    if status >= 400:
        raise ApiRefusal(answer.value)
    return answer


def _scope(request: Request, who: Principal, method: str, path: str, query: str, sent: bytes) -> Scope:
    whole = request.scope["root_path"] + path
    headers = [_JSON, (b"content-length", str(len(sent)).encode())] if sent else []
    made = {
        "method": method, "path": whole, "raw_path": whole.encode(), "query_string": query.encode(),
        "headers": headers, "path_params": {}, "state": {}, "fastapi": {}, KNOWN: who,
    }  # fmt: skip
    return {**request.scope, **made}


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) <= MOST_DIGITS else digits


async def _submitted(request: Request) -> Response:
    """`POST /jobs` has no route that answers it: its middleware calls `accept`, and answers what is raised."""
    try:
        return await submission.accept(request)
    except AcceptedError as error:
        return answer_to(error, request.scope)


async def _through(scope: Scope, sent: bytes) -> tuple[int, bytes]:
    """Through the routes of the API, behind the middlewares that this request has passed already."""
    status, pieces, messages = 0, [], [{"type": "http.request", "body": sent}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        pieces.append(message.get("body", b""))

    if scope["method"] == "POST" and scope["path"] == scope["root_path"] + "/jobs":
        await (await _submitted(Request(scope, receive)))(scope, receive, send)
    else:
        await scope["app"].router(scope, receive, send)
    return status, b"".join(pieces)
