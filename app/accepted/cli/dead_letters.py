"""`accepted dead-letters`: what failed, and what is to become of it."""

import json
import sys
from typing import Annotated, Any

import typer

from accepted.cli.http import AsJson, RequestFailed, ask, given

dead_letters = typer.Typer(no_args_is_help=True, help="List, replay and discard dead letters.")

Named = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="These only.")]
Ids = Annotated[str | None, typer.Option(help="These only, comma-separated.")]
Queue = Annotated[str | None, typer.Option(help="Of this queue.")]
Type = Annotated[str | None, typer.Option("--type", help="Of this type.")]
Class = Annotated[str | None, typer.Option("--class", help="Failed as this class.")]
Before = Annotated[str | None, typer.Option(help="Failed before this time (RFC 3339).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count, and do nothing.")]


@dead_letters.command("list")
def list_(
    named: Named = None,
    ids: Ids = None,
    queue: Queue = None,
    type_: Type = None,
    class_: Class = None,
    before: Before = None,
    group: Annotated[bool, typer.Option("--group", help="Put together what failed alike.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest failures that somebody has still to decide about."""
    asked = _selection(named, ids, queue, type_, class_, before) | {"limit": limit}
    if asked.get("ids") == []:  # in a query, that is none given
        raise RequestFailed("--ids names no id")
    page = ask("GET", "/dead-letters", params=asked | ({"group": "error"} if group else {}))
    if as_json:
        typer.echo(json.dumps(page))
        return
    for item in page["items"]:
        typer.echo(_group_line(item) if group else _line(item))


@dead_letters.command()
def replay(
    named: Named = None,
    ids: Ids = None,
    queue: Queue = None,
    type_: Type = None,
    class_: Class = None,
    before: Before = None,
    spread_over: Annotated[float, typer.Option(min=0, help="Seconds over which the runs begin.")] = 0.0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run the jobs of all that match again, with a fresh retry budget."""
    chosen = _meant(_selection(named, ids, queue, type_, class_, before), "Replay", dry_run)
    body = chosen | {"dry_run": dry_run, "spread_over": spread_over}
    _decided(ask("POST", "/dead-letters/replay", json=body), "replayed", as_json)


@dead_letters.command()
def discard(
    named: Named = None,
    ids: Ids = None,
    queue: Queue = None,
    type_: Type = None,
    class_: Class = None,
    before: Before = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Leave it at that for all that match: their jobs stay failed, and are no dead letters any more."""
    chosen = _meant(_selection(named, ids, queue, type_, class_, before), "Discard", dry_run)
    body = chosen | {"dry_run": dry_run}
    _decided(ask("POST", "/dead-letters/discard", json=body), "discarded", as_json)


def _selection(
    named: list[str] | None,
    ids: str | None,
    queue: str | None,
    type_: str | None,
    class_: str | None,
    before: str | None,
) -> dict[str, Any]:
    """The filters as the HTTP API has them. Ids that were given and are none at all select nothing."""
    wanted = None if not named and ids is None else [*(named or []), *(part for part in (ids or "").split(",") if part)]
    return given(**{"ids": wanted, "queue": queue, "type": type_, "class": class_, "before": before})


def _meant(selection: dict[str, Any], deed: str, dry_run: bool) -> dict[str, Any]:
    """No filter means all there are, as to the API; a person may have forgotten it, and a discard is not taken back."""
    if not selection and not dry_run and sys.stdin.isatty():
        typer.confirm(f"{deed} every dead letter there is?", abort=True, err=True)
    return selection


def _decided(answer: dict[str, Any], done: str, as_json: bool) -> None:
    typer.echo(json.dumps(answer) if as_json else f"{answer['matched']} matched, {answer[done]} {done}")


def _line(letter: dict[str, Any]) -> str:
    kind = f"{letter['type']:<20} {letter['queue']:<12} {letter['class']:<12}"
    return f"{letter['id']}  {letter['failed_at'][:19]}  {kind} {letter['message']}"


def _group_line(group: dict[str, Any]) -> str:
    kind = f"{group['type']:<20} {group['queue']:<12} {group['class']:<12}"
    return f"{group['count']:>6}  {group['last_at'][:19]}  {kind} {group['message']}  e.g. {group['example']}"
