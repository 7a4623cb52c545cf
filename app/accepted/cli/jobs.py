"""`accepted jobs`: submit, show, list, watch, cancel and retry jobs."""

import json
import sys
from typing import Annotated, Any, NoReturn

import typer

from accepted.cli import job_logs
from accepted.cli.http import LONG_POLL, AsJson, RequestFailed, ask, body_of, call, given, say, say_json, segment, shown

jobs = typer.Typer(no_args_is_help=True, help="Submit, show, list, watch, cancel and retry jobs.")
jobs.command("logs")(job_logs.logs)

FINISHED = {"succeeded", "failed", "cancelled", "expired"}


@jobs.command()
def submit(
    type_: Annotated[str, typer.Argument(metavar="TYPE")],
    payload: Annotated[str, typer.Argument(help="A JSON object; - reads standard input.")] = "{}",
    queue: Annotated[str | None, typer.Option(help="Default: the queue of the type.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds until the job is due.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submitting again with the same key makes no second job.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job."""
    text = sys.stdin.read() if payload == "-" else payload
    try:
        body: dict[str, Any] = {"type": type_, "payload": json.loads(text, parse_constant=_refuse)}
    except ValueError as error:
        raise RequestFailed(f"the payload is not JSON: {error}") from None
    body |= {name: value for name, value in (("queue", queue), ("delay", delay)) if value is not None}
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    _show(ask("POST", "/jobs", json=body, headers=headers), as_json)


@jobs.command()
def get(job_id: str, as_json: AsJson = False) -> None:
    """Show a job."""
    _show(ask("GET", f"/jobs/{segment(job_id)}"), as_json)


@jobs.command()
def cancel(job_id: str, as_json: AsJson = False) -> None:
    """Cancel a job: a waiting job at once, a running job as soon as its handler stops."""
    _show(ask("POST", f"/jobs/{segment(job_id)}/cancel"), as_json)


@jobs.command()
def retry(job_id: str, as_json: AsJson = False) -> None:
    """Run a failed, cancelled or expired job again."""
    _show(ask("POST", f"/jobs/{segment(job_id)}/retry"), as_json)


@jobs.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="Only of these statuses, with commas between them.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only of this queue.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Jobs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs. A search that takes long goes on until it has found enough, and says so."""
    page = _newest(given(status=status, queue=queue), limit)
    if as_json:
        say_json(page)
        return
    for job in page["items"]:
        say(_line(job))


@jobs.command()
def watch(job_id: str, as_json: AsJson = False) -> None:
    """Show the progress of a job until it ends. Exits 1 if it does not succeed."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[message]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=as_json,
    ) as bar:
        line = bar.add_task("waiting", total=None, message="")
        etag: str | None = None
        while True:
            headers = {"If-None-Match": etag} if etag else {}
            answer = call(
                "GET", f"/jobs/{segment(job_id)}", params={"wait": LONG_POLL} if etag else None, headers=headers
            )
            if answer.status_code == 304:
                continue
            job, etag = body_of(answer), answer.headers["etag"]
            bar.update(line, description=f"{job['status']} (attempt {job['attempt']})", **_progress(job["progress"]))
            if job["status"] in FINISHED:
                break
    _show(job, as_json)
    raise typer.Exit(0 if job["status"] == "succeeded" else 1)


def _newest(filters: dict[str, Any], limit: int) -> dict[str, Any]:
    """A page of jobs: `next` is followed as long as there are fewer than `limit`."""
    found: list[Any] = []
    page: dict[str, Any] = {"next": ""}
    while len(found) < limit and page["next"] is not None:
        page = ask("GET", "/jobs", params=filters | {"limit": limit - len(found)} | given(cursor=page["next"] or None))
        found += page["items"]
        if not page["complete"]:
            typer.echo(f"{len(found)} found; not everything was searched yet", err=True)
    return page | {"items": found}


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _progress(progress: dict[str, Any] | None) -> dict[str, Any]:
    if progress is None:
        return {"completed": 0, "total": None, "message": ""}
    message = f"{progress['percent']:g} % {progress['message']}"
    return {"completed": progress["percent"], "total": 100, "message": shown(message)}


def _show(job: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(job)
        return
    say(_line(job))
    for name in ("result", "error"):
        if job[name] is not None:
            say(f"  {name}: {json.dumps(job[name])}")


def _line(job: dict[str, Any]) -> str:
    attempts = f"attempt {job['attempt']}/{job['max_attempts']}"
    return f"{job['id']}  {job['status']:<10} {job['type']:<20} {job['queue']:<12} {attempts}"
