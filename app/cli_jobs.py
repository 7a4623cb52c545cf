"""`accepted jobs`: the HTTP API at a terminal, through ACCEPTED_URL and ACCEPTED_API_KEY."""

import json
import os
import sys
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.errors import AcceptedError

jobs = typer.Typer(no_args_is_help=True, help="Submit, see, watch and cancel jobs.")

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
FINISHED = {"succeeded", "failed", "cancelled", "expired"}
LONG_POLL = 30


class RequestFailed(AcceptedError):
    """The service answered with a problem, or not at all."""


@jobs.command()
def submit(
    type_: Annotated[str, typer.Argument(metavar="TYPE")],
    payload: Annotated[str, typer.Argument(help="JSON object; - reads standard input.")] = "{}",
    queue: Annotated[str | None, typer.Option()] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds.")] = None,
    idempotency_key: Annotated[str | None, typer.Option()] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job."""
    text = sys.stdin.read() if payload == "-" else payload
    try:
        body: dict[str, Any] = {"type": type_, "payload": json.loads(text)}
    except ValueError as error:
        raise RequestFailed(f"the payload is not JSON: {error}") from None
    body |= {name: value for name, value in (("queue", queue), ("delay", delay)) if value is not None}
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    _show(_call("POST", "/jobs", json=body, headers=headers).json(), as_json)


@jobs.command()
def get(job_id: str, as_json: AsJson = False) -> None:
    """Show a job."""
    _show(_call("GET", f"/jobs/{job_id}").json(), as_json)


@jobs.command()
def cancel(job_id: str, as_json: AsJson = False) -> None:
    """Cancel a job: one that waits at once, one that runs as soon as its handler lets go."""
    _show(_call("POST", f"/jobs/{job_id}/cancel").json(), as_json)


@jobs.command("list")
def list_(
    status: Annotated[str | None, typer.Option()] = None,
    queue: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest jobs."""
    given = {"status": status, "queue": queue, "limit": limit}
    page = _call("GET", "/jobs", params={name: value for name, value in given.items() if value is not None}).json()
    if as_json:
        typer.echo(json.dumps(page))
        return
    for job in page["items"]:
        typer.echo(_line(job))


@jobs.command()
def watch(job_id: str, as_json: AsJson = False) -> None:
    """Follow a job to its end. Exits 1 when it does not succeed."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=as_json,
    ) as bar:
        shown = bar.add_task("waiting", total=None, said="")
        etag: str | None = None
        while True:
            headers = {"If-None-Match": etag} if etag else {}
            answer = _call("GET", f"/jobs/{job_id}", params={"wait": LONG_POLL} if etag else None, headers=headers)
            if answer.status_code == 304:
                continue
            etag, job = answer.headers["etag"], answer.json()
            bar.update(shown, description=f"{job['status']} (attempt {job['attempt']})", **_said(job["progress"]))
            if job["status"] in FINISHED:
                break
    _show(job, as_json)
    raise typer.Exit(0 if job["status"] == "succeeded" else 1)


def _said(progress: dict[str, Any] | None) -> dict[str, Any]:
    if progress is None:
        return {"completed": 0, "total": None, "said": ""}
    return {"completed": progress["percent"], "total": 100, "said": f"{progress['percent']:g} % {progress['message']}"}


def _call(method: str, path: str, **how: Any) -> httpx.Response:
    key = os.environ.get("ACCEPTED_API_KEY")
    headers = {**(how.pop("headers", None) or {}), **({"Authorization": f"Bearer {key}"} if key else {})}
    url = os.environ.get("ACCEPTED_URL", "http://127.0.0.1:8000").rstrip("/")
    try:
        answer = httpx.request(method, url + path, headers=headers, timeout=LONG_POLL + 10, **how)
    except httpx.HTTPError as error:
        raise RequestFailed(f"{url}: {error}") from None
    if answer.status_code >= 400:
        raise RequestFailed(_problem(answer))
    return answer


def _problem(answer: httpx.Response) -> str:
    if "json" not in answer.headers.get("content-type", ""):
        return f"{answer.status_code} {answer.reason_phrase}"
    problem = answer.json()
    wrong = "".join(f"\n  {one['pointer'] or '/'}: {one['detail']}" for one in problem.get("errors", ()))
    return f"{problem['status']} {problem['title']}: {problem.get('detail', '')}{wrong}"


def _show(job: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(job))
        return
    typer.echo(_line(job))
    for name in ("result", "error"):
        if job[name] is not None:
            typer.echo(f"  {name}: {json.dumps(job[name])}")


def _line(job: dict[str, Any]) -> str:
    attempts = f"attempt {job['attempt']}/{job['max_attempts']}"
    return f"{job['id']}  {job['status']:<10} {job['type']:<20} {job['queue']:<12} {attempts}"
