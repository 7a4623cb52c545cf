"""`accepted dead-letters`: list failed jobs, replay them or discard them."""

import sys
from typing import Annotated, Any

import typer

from accepted.cli.client_commands import ClientCommands
from accepted.cli.http import AsJson, RequestFailed, ask, given, say, say_json, say_lines

dead_letters = ClientCommands(no_args_is_help=True, help="List, replay and discard dead letters.")

ArgumentIds = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Only these dead letters.")]
OptionIds = Annotated[str | None, typer.Option(help="Only these dead letters, comma-separated.")]
Queue = Annotated[str | None, typer.Option(help="Only of this queue.")]
Type = Annotated[str | None, typer.Option("--type", help="Only of this type.")]
Class = Annotated[str | None, typer.Option("--class", help="Only of this failure class.")]
Before = Annotated[str | None, typer.Option(help="Only failures before this time (RFC 3339).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them.")]


@dead_letters.command("list")
def list_(
    argument_ids: ArgumentIds = None,
    ids: OptionIds = None,
    queue: Queue = None,
    type_: Type = None,
    class_: Class = None,
    before: Before = None,
    group: Annotated[bool, typer.Option("--group", help="Count by error.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest failures that await a decision."""
    query = _selection(argument_ids, ids, queue, type_, class_, before) | {"limit": limit}
    if query.get("ids") == []:  # an empty list vanishes from a query string, so it would select everything
        raise RequestFailed("--ids has no id")
    page = ask("GET", "/dead-letters", params=query | ({"group": "error"} if group else {}))
    if as_json:
        say_json(page)
    else:
        none = "" if "ids" in query else "no dead letters"  # of ids that are not found, the error tells
        say_lines(map(_group_line if group else _line, page["items"]), none)
    if not group and page["next"] is None:
        _check_found(query, len(page["items"]))


@dead_letters.command()
def replay(
    argument_ids: ArgumentIds = None,
    ids: OptionIds = None,
    queue: Queue = None,
    type_: Type = None,
    class_: Class = None,
    before: Before = None,
    spread_over: Annotated[float, typer.Option(min=0, help="Seconds over which the runs begin.")] = 0.0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run the jobs of all matching dead letters again, with a fresh retry budget."""
    chosen = _confirmed(_selection(argument_ids, ids, queue, type_, class_, before), "Replay", dry_run)
    body = chosen | {"dry_run": dry_run, "spread_over": spread_over}
    _show_result(ask("POST", "/dead-letters/replay", json=body), "replayed", chosen, as_json)


@dead_letters.command()
def discard(
    argument_ids: ArgumentIds = None,
    ids: OptionIds = None,
    queue: Queue = None,
    type_: Type = None,
    class_: Class = None,
    before: Before = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Discard all matching dead letters. Their jobs stay failed."""
    chosen = _confirmed(_selection(argument_ids, ids, queue, type_, class_, before), "Discard", dry_run)
    body = chosen | {"dry_run": dry_run}
    _show_result(ask("POST", "/dead-letters/discard", json=body), "discarded", chosen, as_json)


def _selection(
    argument_ids: list[str] | None,
    ids: str | None,
    queue: str | None,
    type_: str | None,
    class_: str | None,
    before: str | None,
) -> dict[str, Any]:
    """The filters of the HTTP API. An empty `--ids` selects nothing, not everything."""
    listed = [*(argument_ids or []), *(part for part in (ids or "").split(",") if part)]
    wanted = listed if argument_ids or ids is not None else None
    return given(**{"ids": wanted, "queue": queue, "type": type_, "class": class_, "before": before})


def _confirmed(selection: dict[str, Any], verb: str, dry_run: bool) -> dict[str, Any]:
    """Ask for confirmation at a terminal if no filter is given, because a discard cannot be undone."""
    if not selection and not dry_run and sys.stdin.isatty():
        typer.confirm(f"{verb} every dead letter?", abort=True, err=True)
    return selection


def _show_result(answer: dict[str, Any], done: str, selection: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(answer)
    else:
        say(f"{answer['matched']} matched, {answer[done]} {done}")
    _check_found(selection, answer["matched"])


def _check_found(selection: dict[str, Any], found: int) -> None:
    """Raise `RequestFailed`, so that the command exits 1, if some of the given ids selected nothing."""
    given_ids = {one.lower() for one in selection.get("ids", ())}
    if found < len(given_ids):
        raise RequestFailed(f"not found: {len(given_ids) - found} of {len(given_ids)} ids match no dead letter")


def _line(letter: dict[str, Any]) -> str:
    kind = f"{letter['type']:<20} {letter['queue']:<12} {letter['class']:<12}"
    return f"{letter['id']}  {letter['failed_at'][:19]}  {kind} {letter['message']}"


def _group_line(group: dict[str, Any]) -> str:
    kind = f"{group['type']:<20} {group['queue']:<12} {group['class']:<12}"
    return f"{group['count']:>6}  {group['last_at'][:19]}  {kind} {group['message']}  e.g. {group['example']}"
