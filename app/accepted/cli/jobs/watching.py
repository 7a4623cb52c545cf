"""How the commands wait for the end of a job, with a progress bar."""

from typing import Any

import typer

from accepted.cli.http import LONG_POLL, body_of, call, segment, shown
from accepted.cli.jobs.lines import show

FINISHED = {"succeeded", "failed", "cancelled", "expired"}


def watch(job_id: str, as_json: bool) -> None:
    """Show the progress of a job until it ends, and the job. Exits 1 if it has not succeeded."""
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
        row = bar.add_task("waiting", total=None, message="")
        etag: str | None = None
        while True:
            headers = {"If-None-Match": etag} if etag else {}
            answer = call(
                "GET", f"/jobs/{segment(job_id)}", params={"wait": LONG_POLL} if etag else None, headers=headers
            )
            if answer.status == 304:
                continue
            job, etag = body_of(answer), answer.headers["etag"]
            bar.update(row, description=f"{job['status']} (attempt {job['attempt']})", **_progress(job["progress"]))
            if job["status"] in FINISHED:
                break
    show(job, as_json)
    raise typer.Exit(0 if job["status"] == "succeeded" else 1)


def _progress(progress: dict[str, Any] | None) -> dict[str, Any]:
    if progress is None:
        return {"completed": 0, "total": None, "message": ""}
    message = f"{progress['percent']:g} % {progress['message']}"
    return {"completed": progress["percent"], "total": 100, "message": shown(message)}
