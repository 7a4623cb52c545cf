"""`accepted jobs attempts`, `explain` and `tree`: what happened to a job, why it waits, and what it belongs to."""

from typing import Any

import typer

from accepted.cli.http import AsJson, ask, given, say, say_json, segment
from accepted.cli.jobs.lines import line
from accepted.cli.jobs.many import found

MOST_RELATIVES = 1000
"""Jobs of a tree that are shown."""


def attempts(job_id: str, as_json: AsJson = False) -> None:
    """Show every attempt of a job."""
    page: dict[str, Any] = {"next": ""}
    items: list[Any] = []
    edits: list[Any] = []
    while page["next"] is not None:
        query = {"limit": 200} | given(cursor=page["next"] or None)
        page = ask("GET", f"/jobs/{segment(job_id)}/attempts", params=query)
        items += page["items"]
        edits += page.get("edits", [])
    if as_json:
        say_json({"items": items, "next": None} | ({"edits": edits} if edits else {}))
        return
    for one in items:
        say(_attempt(one))
    if not items:
        typer.echo("no attempt yet", err=True)


def explain(job_id: str, as_json: AsJson = False) -> None:
    """Say why a job is where it is."""
    answer = ask("GET", f"/jobs/{segment(job_id)}/explain")
    if as_json:
        say_json(answer)
    else:
        say(f"{answer['id']}  {answer['status']:<10} {answer['reason']}: {answer['detail']}")


def tree(job_id: str, as_json: AsJson = False) -> None:
    """Show a job between its parents, its children and the jobs of its workflow."""
    job = ask("GET", f"/jobs/{segment(job_id)}")
    family = found({"root_id": job["root_id"]}, MOST_RELATIVES)
    batch = None if job["batch_id"] is None else ask("GET", f"/batches/{job['batch_id']}")
    workflow = batch and batch.get("jobs")
    if as_json:
        say_json({"job": job, "family": family["items"], "workflow": workflow or None})
        return
    _show_family(job, sorted(family["items"], key=lambda one: str(one["id"])))
    if family["next"] is not None:
        typer.echo(f"only {MOST_RELATIVES} jobs of it are shown", err=True)
    if workflow:
        say(f"workflow {job['batch_id']}")
        for one in workflow:
            say(_member(one, job))


def _show_family(job: dict[str, Any], family: list[dict[str, Any]]) -> None:
    """Each job below its parent, further to the right; `*` marks the one that was asked for."""
    ids = {one["id"] for one in family}
    children: dict[str | None, list[dict[str, Any]]] = {}
    for one in family:
        children.setdefault(one["parent_id"] if one["parent_id"] in ids else None, []).append(one)
    below = [(one, 0) for one in reversed(children.get(None, []))]
    while below:
        one, depth = below.pop()
        say(f"{_mark(one, job)} {'  ' * depth}{line(one)}")
        below += [(child, depth + 1) for child in reversed(children.get(one["id"], []))]


def _member(one: dict[str, Any], job: dict[str, Any]) -> str:
    needs = f" needs {', '.join(one['depends_on'])}" if one["depends_on"] else ""
    return f"{_mark(one, job)} {one['id']}  {one['status']:<10} {one['ref']}{needs}"


def _mark(one: dict[str, Any], job: dict[str, Any]) -> str:
    return "*" if one["id"] == job["id"] else " "


def _attempt(one: dict[str, Any]) -> str:
    error = one["error"]
    times = f"{one['started_at'][:19]}  {(one['finished_at'] or 'running')[:19]:<19}"
    why = f"{error['class']}: {error['message']}" if error else ""
    return f"{one['attempt']:>3}  {times}  {one['outcome'] or '':<12} {one['worker']}  {why}".rstrip()
