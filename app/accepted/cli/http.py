"""Calls of the HTTP API by the commands."""

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from accepted.cli.client_commands import client_setting
from accepted.domain.json_text import is_printable
from accepted.errors import AcceptedError

if TYPE_CHECKING:
    import httpx

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

DEFAULT_URL = "http://127.0.0.1:8000"

LONG_POLL = 30
"""Seconds that `accepted jobs watch` waits for a change in one request."""


class RequestFailed(AcceptedError):
    """The service answered with a problem, did not answer, or is not Accepted. `status` is that of the problem."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


def ask(method: str, path: str, **options: Any) -> dict[str, Any]:
    """The JSON object of the answer. `options` are those of `httpx.request`. Raises `RequestFailed`."""
    return body_of(call(method, path, **options))


def call(method: str, path: str, **options: Any) -> "httpx.Response":
    """The answer. Raises `RequestFailed`, also for a problem."""
    import httpx

    key = _api_key()
    headers = {**(options.pop("headers", None) or {}), **({"Authorization": f"Bearer {key}"} if key else {})}
    url = (client_setting("url") or DEFAULT_URL).strip().rstrip("/")
    try:
        answer = httpx.request(method, url + path, headers=headers, timeout=LONG_POLL + 10, **options)
    except httpx.InvalidURL:  # its text quotes a part of the URL, which may hold a password
        raise RequestFailed("ACCEPTED_URL=(hidden): is not a URL, such as http://127.0.0.1:8000") from None
    except httpx.HTTPError as error:
        raise RequestFailed(f"{re.sub('//[^/]*@', '//', url)}: {error or type(error).__name__}") from None
    except ValueError as error:  # such as NaN, which is not JSON, or a header that is not ASCII
        raise RequestFailed(f"this cannot be sent: {error}") from None
    if answer.status_code >= 400:
        raise RequestFailed(_problem(answer), answer.status_code)
    return answer


def _api_key() -> str:
    """The key, without the line break with which a file ends. Errors never show a part of it."""
    key = client_setting("api_key").strip()
    if not re.fullmatch("[!-~]*", key):
        raise RequestFailed("ACCEPTED_API_KEY=(hidden): has a character that is no part of a key")
    return key


def body_of(answer: "httpx.Response") -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RequestFailed(
            f"{answer.url.copy_with(userinfo=b'')}: {answer.status_code} without a JSON object: this is not Accepted"
        )
    return body


def _problem(answer: "httpx.Response") -> str:
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):  # for example from a proxy
        return f"{answer.status_code} {answer.reason_phrase}"
    problem = body_of(answer)
    title = f"{answer.status_code} {problem.get('title', answer.reason_phrase)}: {problem.get('detail', '')}"
    wrong = [f"  {one['pointer'] or '/'}: {one['detail']}" for one in problem.get("errors", ())]
    return "\n".join(map(shown, [title, *wrong]))


def shown(text: str) -> str:
    """`text` on one line, with an escape such as \\x1b for each character that may be in no name.

    What others sent may hold sequences by which a terminal changes its title, its colours or what it has shown.
    """
    if is_printable(text):
        return text
    return "".join(one if is_printable(one) else ascii(one)[1:-1] for one in text)


def say(line: str) -> None:
    """Print a line that holds what the service answered."""
    typer.echo(shown(line))


def say_lines(lines: Iterable[str], none: str) -> None:
    """Print each line; if there are none, `none` (if that says anything) on standard error: a program reads nothing."""
    found = list(lines)
    for line in found:
        say(line)
    if none and not found:
        typer.echo(none, err=True)


def say_json(value: object) -> None:
    """Print JSON. Of the control characters `json` itself leaves DEL as it is."""
    typer.echo(json.dumps(value).replace("\x7f", "\\u007f"))


def say_deleted(name: str, as_json: bool) -> None:
    """What a command that deletes prints: as before, nothing but for machines."""
    if as_json:
        say_json({"deleted": name})


def segment(name: str) -> str:
    """A name or id as one segment of a path, so that it cannot lead to another address."""
    return quote(name, safe="")


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None: the options given on the command line."""
    return {name: value for name, value in values.items() if value is not None}
