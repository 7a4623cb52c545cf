"""`accepted jobs list`, and `cancel`, `retry` and `delete`: of one job, or of all that match."""

import sys
from typing import Annotated, Any, Literal

import typer

from accepted.cli.http import AsJson, RequestFailed, ask, call, given, say, say_json, segment
from accepted.cli.jobs.filters import as_query, with_filters
from accepted.cli.jobs.lines import line, show

PAGE = 200
"""Jobs in one answer at most."""

JobId = Annotated[str | None, typer.Argument(metavar="ID", help="This job. Without it: all that match the filters.")]
All = Annotated[bool, typer.Option("--all", help="Instead of filters: every job.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@with_filters
def list_(
    filters: dict[str, Any],
    sort: Annotated[Literal["run_at"] | None, typer.Option(help="The soonest first; of jobs that wait.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Jobs to list.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where another list ended: its `next`.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs that match. A search that takes long goes on until it has found enough, and says so."""
    page = found(as_query(filters) | given(sort=sort), limit, cursor)
    if as_json:
        say_json(page)
        return
    for job in page["items"]:
        say(line(job))
    if not page["items"]:
        typer.echo("no job matches", err=True)
    if page["next"] is not None:
        typer.echo(f"there may be more: --cursor {page['next']}", err=True)


@with_filters
def cancel(
    filters: dict[str, Any], job_id: JobId = None, every: All = False, dry_run: DryRun = False, yes: Yes = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Cancel a job, or all that match: waiting jobs at once, running jobs as soon as their handlers stop."""
    if _is_one(job_id, filters, every, dry_run):
        show(ask("POST", f"/jobs/{segment(job_id or '')}/cancel"), as_json)
    else:
        _act("cancel", "cancelled", _selection(filters, every), dry_run, yes, as_json)


@with_filters
def retry(
    filters: dict[str, Any], job_id: JobId = None, every: All = False, dry_run: DryRun = False, yes: Yes = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Run a failed, cancelled or expired job again, or all that match."""
    if _is_one(job_id, filters, every, dry_run):
        show(ask("POST", f"/jobs/{segment(job_id or '')}/retry"), as_json)
    else:
        _act("retry", "retried", _selection(filters, every), dry_run, yes, as_json)


@with_filters
def delete(
    filters: dict[str, Any], job_id: JobId = None, every: All = False, dry_run: DryRun = False, yes: Yes = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Delete what a job holds, or all that match, for good. Running jobs stay; id and times are kept."""
    if not _is_one(job_id, filters, every, dry_run):
        _act("delete", "deleted", _selection(filters, every), dry_run, yes, as_json)
        return
    call("DELETE", f"/jobs/{segment(job_id or '')}")
    if as_json:
        say_json({"id": job_id, "deleted": True})
    else:
        say(f"{job_id}  deleted")


def found(query: dict[str, Any], limit: int, cursor: str | None = None) -> dict[str, Any]:
    """A page of jobs: `next` is followed as long as there are fewer than `limit`."""
    items: list[Any] = []
    page: dict[str, Any] = {"next": cursor or ""}
    while len(items) < limit and page["next"] is not None:
        more = {"limit": min(PAGE, limit - len(items))} | given(cursor=page["next"] or None)
        page = ask("GET", "/jobs", params=query | more)
        items += page["items"]
        if not page["complete"]:
            typer.echo(f"{len(items)} found; not everything was searched yet", err=True)
    return page | {"items": items}


def _is_one(job_id: str | None, filters: dict[str, Any], every: bool, dry_run: bool) -> bool:
    if job_id is not None and (filters or every or dry_run):
        raise RequestFailed("give an id, or filters, not both")
    return job_id is not None


def _selection(filters: dict[str, Any], every: bool) -> dict[str, Any]:
    if not filters and not every:
        raise RequestFailed("give an id, or filters, or --all")
    return filters | ({"all": True} if every else {})


def _act(verb: str, done: str, selection: dict[str, Any], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Do it to all that match, request after request, after a question at a terminal."""
    if not dry_run and not yes and sys.stdin.isatty():
        counted = ask("POST", f"/jobs/{verb}", json=selection | {"dry_run": True})
        least = "" if counted.get("complete", True) else "at least "
        typer.confirm(f"{verb.capitalize()} {least}{counted['matched']} jobs?", abort=True, err=True)
    total = {"matched": 0, done: 0}
    body = selection | ({"dry_run": True} if dry_run else {})
    answer: dict[str, Any] = {"next": None}
    while "next" in answer:
        answer = ask("POST", f"/jobs/{verb}", json=body | given(cursor=answer["next"]))
        total = {name: count + answer[name] for name, count in total.items()}
        if "next" in answer:
            typer.echo(f"{total['matched']} matched, {total[done]} {done}; going on", err=True)
    if as_json:
        say_json(total)
    else:
        say(f"{total['matched']} matched, {total[done]} {done}")
