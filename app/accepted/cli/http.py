"""The HTTP API as the commands at a terminal call it, through ACCEPTED_URL and ACCEPTED_API_KEY."""

import os
from typing import Annotated, Any

import httpx
import typer

from accepted.errors import AcceptedError

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

LONG_POLL = 30
"""Seconds."""


class RequestFailed(AcceptedError):
    """The service answered with a problem, or not at all, or it was another service."""


def ask(method: str, path: str, **how: Any) -> dict[str, Any]:
    """What is answered: each of our answers with a body is a JSON object."""
    return body_of(call(method, path, **how))


def call(method: str, path: str, **how: Any) -> httpx.Response:
    """The answer, which is no problem."""
    key = os.environ.get("ACCEPTED_API_KEY")
    headers = {**(how.pop("headers", None) or {}), **({"Authorization": f"Bearer {key}"} if key else {})}
    url = os.environ.get("ACCEPTED_URL", "http://127.0.0.1:8000").rstrip("/")
    try:
        answer = httpx.request(method, url + path, headers=headers, timeout=LONG_POLL + 10, **how)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RequestFailed(f"{url}: {error}") from None
    if answer.status_code >= 400:
        raise RequestFailed(_problem(answer))
    return answer


def body_of(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RequestFailed(f"{answer.url}: {answer.status_code} without a JSON object: it is no Accepted that answers")
    return body


def _problem(answer: httpx.Response) -> str:
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):  # a proxy's, say
        return f"{answer.status_code} {answer.reason_phrase}"
    problem = body_of(answer)
    wrong = "".join(f"\n  {one['pointer'] or '/'}: {one['detail']}" for one in problem.get("errors", ()))
    return f"{answer.status_code} {problem.get('title', answer.reason_phrase)}: {problem.get('detail', '')}{wrong}"


def given(**values: Any) -> dict[str, Any]:
    """What was given on the command line, without what was not."""
    return {name: value for name, value in values.items() if value is not None}
