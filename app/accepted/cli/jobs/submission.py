"""`accepted jobs submit`."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from accepted.cli.http import AsJson, RequestFailed, ask, given
from accepted.cli.jobs.lines import show
from accepted.cli.jobs.watching import watch

IdempotencyKey = Annotated[str | None, typer.Option(help="Submitting again with the same key makes nothing new.")]
CallbackUrl = Annotated[str | None, typer.Option(help="Where a webhook tells of the end.")]


def submit(
    type_: Annotated[str, typer.Argument(metavar="TYPE")],
    payload: Annotated[str, typer.Argument(help="A JSON object; - reads standard input.")] = "{}",
    queue: Annotated[str | None, typer.Option(help="Default: the queue of the type.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="Higher first; default 4.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds until the job is due.")] = None,
    run_at: Annotated[str | None, typer.Option(help="When it is due: 2026-11-30T09:00:00Z.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that an attempt may take.")] = None,
    callback_url: CallbackUrl = None,
    idempotency_key: IdempotencyKey = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be given several times.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show its progress until it ends, as `watch` does.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job. With --wait, exits 1 if it does not succeed."""
    body = {"type": type_, "payload": read_json(payload, "payload")}
    body |= given(
        queue=queue, priority=priority, delay=delay, run_at=run_at, timeout=timeout, callback_url=callback_url,
        tags=tag or None, metadata=_pairs(metadata or ()) or None,
    )  # fmt: skip
    job = ask("POST", "/jobs", json=body, headers=idempotency(idempotency_key))
    if not wait:
        show(job, as_json)
        return
    if not as_json:
        typer.echo(job["id"], err=True)
    watch(job["id"], as_json)


def read_json(text: str, what: str) -> Any:
    """The value of JSON text, or of standard input for `-`. Raises `RequestFailed`."""
    try:
        return json.loads(sys.stdin.read() if text == "-" else text, parse_constant=_refuse)
    except ValueError as error:
        raise RequestFailed(f"the {what} is not JSON: {error}") from None


def idempotency(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key} if key else {}


def _pairs(metadata: Sequence[str]) -> dict[str, str]:
    if wrong := [one for one in metadata if "=" not in one]:
        raise RequestFailed(f"--metadata {wrong[0]!r} is not KEY=VALUE")
    return dict(one.split("=", 1) for one in metadata)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
