"""Calls of the HTTP API by the commands."""

import json as json_text
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accepted.cli.client_commands import client_setting
from accepted.client import bodies
from accepted.client.bodies import segment as segment
from accepted.client.errors import ClientError, RequestProblem
from accepted.domain.json_text import is_printable
from accepted.errors import AcceptedError

if TYPE_CHECKING:
    from accepted.client.steps import ApiAnswer

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

LONG_POLL = 30
"""Seconds that `accepted jobs watch` waits for a change in one request."""


class RequestFailed(AcceptedError):
    """The service answered with a problem, did not answer, or is not Accepted. `status` is that of the problem."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


def ask(method: str, path: str, **options: Any) -> dict[str, Any]:
    """The JSON object of the answer. `options` are those of `call`. Raises `RequestFailed`."""
    return body_of(call(method, path, **options))


def call(
    method: str,
    path: str,
    *,
    params: Mapping[str, Any] | None = None,
    json: Any = None,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> "ApiAnswer":
    """The answer. Raises `RequestFailed`, also for a problem. Who waits at a terminal tries again themselves."""
    from accepted.client.blocking_driver import BlockingDriver
    from accepted.client.connection import Connection
    from accepted.client.exchange import exchange
    from accepted.client.steps import ApiRequest

    sent = dict(headers or {})
    try:
        if json is not None:
            content, sent = bodies.encode(json), bodies.JSON | sent
        connection = Connection.to(client_setting("url"), client_setting("api_key"), LONG_POLL + 10, 1, 0)
        request = ApiRequest(method, path, params or {}, sent, content)
        return BlockingDriver(connection).run(exchange(request, connection.limits))
    except ClientError as error:
        raise _failed(error) from None
    except ValueError as error:  # such as NaN, which is not JSON
        raise RequestFailed(f"this cannot be sent: {error}") from None


def ask_all(path: str) -> Iterator[dict[str, Any]]:
    """The items of every page of a list."""
    query: dict[str, Any] = {"limit": 200}
    while True:
        page = ask("GET", path, params=query)
        yield from page["items"]
        if page["next"] is None:
            return
        query["cursor"] = page["next"]


def body_of(answer: "ApiAnswer") -> dict[str, Any]:
    from accepted.client import exchange

    try:
        return exchange.body_of(answer)
    except ClientError as error:
        raise _failed(error) from None


def _failed(error: ClientError) -> RequestFailed:
    if isinstance(error, RequestProblem):
        return RequestFailed("\n".join(map(shown, error.lines)), error.status)
    return RequestFailed(str(error))


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
    typer.echo(json_text.dumps(value).replace("\x7f", "\\u007f"))


def say_whether(name: str, sentence: str, work: Callable[[], None], as_json: bool) -> None:
    """Print `sentence` unless `work` raises; for machines an object with `name` and the problem, then exit code 1."""
    problem = None
    try:
        work()
    except AcceptedError as error:
        if not as_json:
            raise
        problem = str(error)
    if not as_json:
        typer.echo(sentence)
        return
    say_json({name: problem is None, "problem": problem})
    if problem is not None:
        raise typer.Exit(1)


def say_deleted(name: str, as_json: bool) -> None:
    """What a command that deletes prints: as before, nothing but for machines."""
    if as_json:
        say_json({"deleted": name})


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None: the options given on the command line."""
    return bodies.given(values)
