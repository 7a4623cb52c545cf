"""`accepted batches`: submit, list, show, watch and cancel batches and workflows."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from accepted.cli.client_commands import ClientCommands
from accepted.cli.http import AsJson, RequestFailed, ask, body_of, call, given, say, say_json, say_lines, segment
from accepted.cli.jobs.submission import CallbackUrl, IdempotencyKey, idempotency, read_json

batches = ClientCommands(no_args_is_help=True, help="Submit, list, show, watch and cancel batches and workflows.")

NDJSON = {".ndjson", ".jsonl"}
"""Endings of files with a job a line."""

LONGEST_PAUSE = 5.0
"""Seconds between two looks at a batch that is watched."""


@batches.command()
def submit(
    file: Annotated[str, typer.Argument(help="JSON; .ndjson or .jsonl: a job a line. - reads standard input.")],
    ndjson: Annotated[bool, typer.Option("--ndjson", help="A job a line, whatever the name of the file.")] = False,
    workflow: Annotated[bool, typer.Option("--workflow", help="The jobs depend on each other.")] = False,
    spread_over: Annotated[float | None, typer.Option(help="Seconds over which the runs begin.")] = None,
    on_failure: Annotated[str | None, typer.Option(help="continue or cancel.")] = None,
    callback_url: CallbackUrl = None,
    idempotency_key: IdempotencyKey = None,
    as_json: AsJson = False,
) -> None:
    """Submit many jobs, all or none: a list of jobs, or the body of POST /batches."""
    options = given(spread_over=spread_over, on_failure=on_failure, callback_url=callback_url)
    headers = idempotency(idempotency_key)
    if not ndjson and Path(file).suffix not in NDJSON:
        body = _body(_text(file)) | options
        _show(ask("POST", "/workflows" if workflow else "/batches", json=body, headers=headers), as_json)
        return
    if workflow:
        raise RequestFailed("a workflow is JSON, not a job a line")
    headers["Content-Type"] = "application/x-ndjson"
    _show(ask("POST", "/batches", content=_text(file).encode(), params=options, headers=headers), as_json)


@batches.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=200, help="The newest so many.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="`next` of the page before.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the newest batches and workflows, each with its jobs counted by status."""
    page = ask("GET", "/batches", params=given(limit=limit, cursor=cursor))
    if as_json:
        say_json(page)
        return
    say_lines(map(_line, page["items"]), "no batches")
    if page["next"]:
        typer.echo(f"there are more: --cursor {page['next']}", err=True)


@batches.command()
def get(batch_id: str, as_json: AsJson = False) -> None:
    """Show a batch, with its jobs counted by status."""
    _show(ask("GET", f"/batches/{segment(batch_id)}"), as_json)


@batches.command()
def cancel(batch_id: str, as_json: AsJson = False) -> None:
    """Cancel every unfinished job of a batch."""
    _show(ask("POST", f"/batches/{segment(batch_id)}/cancel"), as_json)


@batches.command()
def watch(batch_id: str, as_json: AsJson = False) -> None:
    """Show the progress of a batch until all its jobs have ended. Exits 1 if not all of them succeeded."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=as_json,
    ) as bar:
        row = bar.add_task("waiting", total=None)
        while True:
            answer = call("GET", f"/batches/{segment(batch_id)}")
            batch = body_of(answer)
            bar.update(row, description=_counts(batch), completed=_ended(batch), total=batch["total"])
            if batch["finished"]:
                break
            time.sleep(min(float(answer.headers["retry-after"]), LONGEST_PAUSE))
    _show(batch, as_json)
    raise typer.Exit(0 if batch["counts"].get("succeeded", 0) == batch["total"] else 1)


def _text(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise RequestFailed(f"{file}: {error}") from None


def _body(text: str) -> dict[str, Any]:
    """The body of a request: a list is that of the jobs."""
    found = read_json(text, "file")
    if isinstance(found, list):
        return {"jobs": found}
    if not isinstance(found, dict):
        raise RequestFailed("the file holds neither a list of jobs nor a JSON object")
    return found


def _ended(batch: dict[str, Any]) -> int:
    return sum(batch["counts"].get(status, 0) for status in ("succeeded", "failed", "cancelled", "expired"))


def _counts(batch: dict[str, Any]) -> str:
    return ", ".join(f"{count} {status}" for status, count in batch["counts"].items()) or "empty"


def _show(batch: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(batch)
        return
    say(_line(batch))
    for job in batch.get("jobs", ()):
        after = f"  after {', '.join(job['depends_on'])}" if job["depends_on"] else ""
        say(f"  {job['id']}  {job['status']:<10} {job['ref']}{after}")


def _line(batch: dict[str, Any]) -> str:
    state = "finished" if batch["finished"] else "running"
    return f"{batch['id']}  {state}  {batch['total']} jobs: {_counts(batch)}"
