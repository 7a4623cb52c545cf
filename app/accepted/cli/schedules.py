"""`accepted schedules`: list, write, preview and trigger schedules. Times are shown in UTC and in local time."""

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import typer

from accepted.cli.client_commands import ClientCommands
from accepted.cli.http import (
    AsJson,
    RequestFailed,
    ask,
    ask_all,
    call,
    given,
    say,
    say_deleted,
    say_json,
    say_lines,
    segment,
)
from accepted.domain.zones import zone

schedules = ClientCommands(help="List, write, preview and trigger schedules.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
Timezone = Annotated[str, typer.Option(help="UTC, or a name of the IANA database.")]


@schedules.callback(invoke_without_command=True)
def overview(context: typer.Context, as_json: AsJson = False) -> None:
    """List all schedules, each with its next five runs."""
    if context.invoked_subcommand is None:
        list_(as_json)


@schedules.command("list")
def list_(as_json: AsJson = False) -> None:
    """List all schedules, each with its next five runs."""
    found = list(ask_all("/schedules"))
    if as_json:
        say_json({"items": found})
        return
    say_lines((line for one in found for line in _lines(one)), "no schedules")


@schedules.command()
def get(name: Name, as_json: AsJson = False) -> None:
    """Show a schedule."""
    _show(ask("GET", f"/schedules/{segment(name)}"), as_json)


@schedules.command()
def put(
    name: Name,
    cron: Annotated[str, typer.Option(help="Five fields, such as '*/5 * * * *'.")],
    job: Annotated[str, typer.Option(help="A body of POST /jobs; - reads standard input.")],
    timezone: Timezone = "UTC",
    on_missed: Annotated[str | None, typer.Option(help="skip, run_once or run_all.")] = None,
    overlap: Annotated[str | None, typer.Option(help="allow or skip.")] = None,
    spread_over: Annotated[float | None, typer.Option(min=0, help="Seconds over which the starts are spread.")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Do not fire.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a schedule, or replace all of it."""
    try:
        wanted = json.loads(sys.stdin.read() if job == "-" else job)
    except ValueError as error:
        raise RequestFailed(f"the job is not JSON: {error}") from None
    body = {"cron": cron, "timezone": timezone, "job": wanted, "enabled": not disabled}
    body |= given(on_missed=on_missed, overlap=overlap, spread_over=spread_over)
    _show(ask("PUT", f"/schedules/{segment(name)}", json=body), as_json)


@schedules.command()
def delete(name: Name, as_json: AsJson = False) -> None:
    """Delete a schedule. Jobs that it submitted stay."""
    call("DELETE", f"/schedules/{segment(name)}")
    say_deleted(name, as_json)


@schedules.command()
def trigger(name: Name, as_json: AsJson = False) -> None:
    """Submit the job of a schedule now."""
    job = ask("POST", f"/schedules/{segment(name)}/trigger")
    if as_json:
        say_json(job)
    else:
        say(f"{job['id']}  {job['status']}")


@schedules.command()
def runs(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Runs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List what happened at the latest scheduled times."""
    page = ask("GET", f"/schedules/{segment(name)}/runs", params={"limit": limit})
    if as_json:
        say_json(page)
        return
    say_lines(map(_run_line, page["items"]), "no runs")


@schedules.command()
def preview(
    cron: Annotated[str, typer.Argument(help="Five fields, such as '*/5 * * * *'.")],
    timezone: Timezone = "UTC",
    after: Annotated[str | None, typer.Option(help="RFC 3339; default: now.")] = None,
    count: Annotated[int, typer.Option(min=1, max=100, help="Runs to show.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Show when a cron line fires, and how changes of the clock affect it."""
    body = {"cron": cron, "timezone": timezone, "count": count} | given(after=after)
    answer = ask("POST", "/schedules/preview", json=body)
    if as_json:
        say_json(answer)
        return
    for line in (*_runs(answer["next_runs"], timezone), *answer["warnings"]):
        say(line)


def _show(one: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(one)
    else:
        say_lines(_lines(one), "")


def _lines(one: dict[str, Any]) -> Iterator[str]:
    disabled = "" if one["enabled"] else "  (disabled)"
    yield f"{one['name']}  {one['cron']}  {one['timezone']}  {one['job']['type']}{disabled}"
    for line in _runs(one["next_runs"], one["timezone"]):
        yield f"  {line}"


def _run_line(run: dict[str, Any]) -> str:
    result = run["job_status"] or run["reason"] or ""
    return f"{run['scheduled_at'][:19]}Z  {run['outcome']:<10} {run['job_id'] or '-':<36}  {result}"


def _runs(moments: list[str], timezone: str) -> Iterator[str]:
    """Each moment in UTC, and in local time."""
    for moment in moments:
        at = datetime.fromisoformat(moment)
        yield f"{at:%a %Y-%m-%d %H:%M} UTC   {at.astimezone(zone(timezone)):%a %Y-%m-%d %H:%M %Z}"
