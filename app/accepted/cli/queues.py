"""`accepted queues`: show, pause, limit and delete queues; `accepted size`: how many slots a queue needs."""

from http import HTTPStatus
from typing import Annotated, Any

import typer

from accepted.cli.client_commands import ClientCommands, calls_the_api
from accepted.cli.http import (
    AsJson,
    RequestFailed,
    ask,
    call,
    given,
    say,
    say_deleted,
    say_json,
    say_lines,
    segment,
)

queues = ClientCommands(no_args_is_help=True, help="Show queues, pause them, set their limits and delete them.")

NONE = "none"
"""The value that removes a limit."""

Limit = Annotated[str | None, typer.Option(metavar="N|none")]
Create = Annotated[bool, typer.Option("--create", help="Make the queue if it does not exist.")]


@queues.command("list")
def list_(as_json: AsJson = False) -> None:
    """List all queues."""
    page = ask("GET", "/queues")
    if as_json:
        say_json(page)
        return
    say_lines(map(_line, page["items"]), "no queues")


@queues.command()
def get(name: str, as_json: AsJson = False) -> None:
    """Show a queue."""
    _show(ask("GET", f"/queues/{segment(name)}"), as_json)


@queues.command()
def pause(name: str, create: Create = False, as_json: AsJson = False) -> None:
    """Start no more jobs of the queue. Running jobs go on, new jobs wait."""
    _change(name, {"paused": True}, create, as_json)


@queues.command()
def resume(name: str, create: Create = False, as_json: AsJson = False) -> None:
    """Start jobs of the queue again."""
    _change(name, {"paused": False}, create, as_json)


@queues.command()
def delete(name: str, as_json: AsJson = False) -> None:
    """Delete a queue without unfinished jobs, and its limits. A new job makes it again."""
    call("DELETE", f"/queues/{segment(name)}")
    say_deleted(name, as_json)


@queues.command()
def limit(
    name: str,
    max_running: Limit = None,
    rate: Annotated[str | None, typer.Option(metavar="JOBS/SECONDS|none", help="Such as 100/60.")] = None,
    max_running_per_key: Limit = None,
    max_depth: Limit = None,
    create: Create = False,
    as_json: AsJson = False,
) -> None:
    """Set or remove limits. Limits that are not named do not change."""
    wanted = given(max_running=max_running, max_running_per_key=max_running_per_key, max_depth=max_depth)
    changes: dict[str, Any] = {option: _whole(value) for option, value in wanted.items()}
    if rate is not None:
        changes["rate_limit"] = None if rate == NONE else _rate(rate)
    if not changes:
        raise RequestFailed("give a limit: --max-running, --rate, --max-running-per-key or --max-depth")
    _change(name, changes, create, as_json)


@calls_the_api
def size(
    queue: Annotated[str, typer.Option(help="Name of the queue.")],
    drain_within: Annotated[float | None, typer.Option(help="Seconds in which to clear the backlog.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show how many worker slots a queue needs, by Little's law over the measured rates."""
    found = ask("GET", f"/queues/{segment(queue)}/sizing", params=given(drain_within=drain_within))
    if as_json:
        say_json(found)
        return
    advised, least = found["slots_advised"], found["slots_at_least"]
    needed = "not known yet" if advised is None else f"{advised} slots advised, {least} at least"
    say(f"{queue}: {needed}; there are {found['slots']}")
    say(f"  {found['detail']}")


def _change(name: str, changes: dict[str, Any], create: bool, as_json: bool) -> None:
    headers = {} if create else {"If-Match": "*"}
    try:
        _show(ask("PATCH", f"/queues/{segment(name)}", json=changes, headers=headers), as_json)
    except RequestFailed as failed:
        if failed.status != HTTPStatus.PRECONDITION_FAILED:
            raise
        raise RequestFailed(f"{failed}; --create makes it") from None


def _whole(value: str) -> int | None:
    if value == NONE:
        return None
    if not value.isdecimal():
        raise RequestFailed(f"{value!r} is neither a whole number nor {NONE}")
    return int(value)


def _rate(value: str) -> dict[str, Any]:
    jobs, _, per = value.partition("/")
    try:
        return {"jobs": int(jobs), "per": float(per)}
    except ValueError:
        raise RequestFailed(f"{value!r} is not a rate such as 100/60") from None


def _show(queue: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(queue)
    else:
        say(_line(queue))


def _line(queue: dict[str, Any]) -> str:
    depth = ", ".join(f"{count} {status}" for status, count in queue["depth"].items() if count) or "empty"
    rate = queue["rate_limit"]
    limits = {
        "max_running": queue["max_running"],
        "rate": rate and f"{rate['jobs']}/{rate['per']:g}",
        "max_running_per_key": queue["max_running_per_key"],
        "max_depth": queue["max_depth"],
    }
    set_ = ["paused"] * queue["paused"] + [f"{name}={value}" for name, value in limits.items() if value is not None]
    return f"{queue['name']:<20} {queue['slots']:>4} slots  {depth}{'  ' if set_ else ''}{', '.join(set_)}"
