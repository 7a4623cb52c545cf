"""The HTTP API as the commands at a terminal call it, through ACCEPTED_URL and ACCEPTED_API_KEY."""

import os
from typing import Annotated, Any

import httpx
import typer

from app.errors import AcceptedError

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

LONG_POLL = 30
"""Seconds."""


class RequestFailed(AcceptedError):
    """The service answered with a problem, or not at all."""


def call(method: str, path: str, **how: Any) -> httpx.Response:
    key = os.environ.get("ACCEPTED_API_KEY")
    headers = {**(how.pop("headers", None) or {}), **({"Authorization": f"Bearer {key}"} if key else {})}
    url = os.environ.get("ACCEPTED_URL", "http://127.0.0.1:8000").rstrip("/")
    try:
        answer = httpx.request(method, url + path, headers=headers, timeout=LONG_POLL + 10, **how)
    except httpx.HTTPError as error:
        raise RequestFailed(f"{url}: {error}") from None
    if answer.status_code >= 400:
        raise RequestFailed(_problem(answer))
    return answer


def _problem(answer: httpx.Response) -> str:
    if "json" not in answer.headers.get("content-type", ""):
        return f"{answer.status_code} {answer.reason_phrase}"
    problem = answer.json()
    wrong = "".join(f"\n  {one['pointer'] or '/'}: {one['detail']}" for one in problem.get("errors", ()))
    return f"{problem['status']} {problem['title']}: {problem.get('detail', '')}{wrong}"


def given(**values: Any) -> dict[str, Any]:
    """What was given on the command line, without what was not."""
    return {name: value for name, value in values.items() if value is not None}
