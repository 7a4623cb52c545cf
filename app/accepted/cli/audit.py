"""`accepted audit`: who changed what."""

import json
from typing import Annotated, Any

import typer

from accepted.cli.client_commands import calls_the_api
from accepted.cli.http import AsJson, ask, given, say, say_json, say_lines


@calls_the_api
def audit(
    action: Annotated[str | None, typer.Option(help="Such as queue.changed.")] = None,
    since: Annotated[str | None, typer.Option(help="A time with an offset: 2026-11-30T09:00:00Z.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="The newest so many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="The `next` of an earlier page.")] = None,
    as_json: AsJson = False,
) -> None:
    """List who changed what, newest first."""
    page = ask("GET", "/audit", params=given(action=action, since=since, limit=limit, cursor=cursor))
    if as_json:
        say_json(page)
        return
    say_lines(map(_line, page["items"]), "no acts are recorded")
    if page["next"]:
        say(f"more: --cursor {page['next']}")


def _line(entry: dict[str, Any]) -> str:
    detail = dict(entry["detail"])
    by = detail.pop("os_user", None) or (entry["key"] or {}).get("name") or "anybody"
    who = f"{entry['tenant']}/{by} {entry['address'] or '-'}"
    return f"{entry['at'][:19]}Z  {who}  {entry['action']} {entry['target'] or '-'}  {json.dumps(detail)}"
