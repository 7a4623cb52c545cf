"""`accepted jobs`: submit, show and watch a job; the other commands are registered here."""

import json
import sys
from typing import Annotated, Any, NoReturn

import typer

from accepted.cli import about_job, job_logs, many_jobs
from accepted.cli.http import LONG_POLL, AsJson, RequestFailed, ask, body_of, call, segment, shown
from accepted.cli.job_lines import show

jobs = typer.Typer(no_args_is_help=True, help="Submit, show, list, watch, explain, cancel, retry and delete jobs.")
jobs.command("list")(many_jobs.list_)
for _command in (
    many_jobs.cancel, many_jobs.retry, many_jobs.delete, about_job.attempts, about_job.explain, about_job.tree,
    job_logs.logs,
):  # fmt: skip
    jobs.command()(_command)

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
    show(ask("POST", "/jobs", json=body, headers=headers), as_json)


@jobs.command()
def get(job_id: str, as_json: AsJson = False) -> None:
    """Show a job."""
    show(ask("GET", f"/jobs/{segment(job_id)}"), as_json)


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
    show(job, as_json)
    raise typer.Exit(0 if job["status"] == "succeeded" else 1)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _progress(progress: dict[str, Any] | None) -> dict[str, Any]:
    if progress is None:
        return {"completed": 0, "total": None, "message": ""}
    message = f"{progress['percent']:g} % {progress['message']}"
    return {"completed": progress["percent"], "total": 100, "message": shown(message)}
