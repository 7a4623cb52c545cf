"""`accepted jobs logs`: what a job's handler has logged."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from accepted.cli.http import AsJson, ask, body_of, call, given, say, say_json, segment
from accepted.domain.job import FINISHED

BETWEEN_LOOKS = 1
"""Seconds between two looks at the log of a running job. It is written once a second."""


def logs(
    job_id: str,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="Only of this attempt.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the handler of a job has logged. With --json, --follow prints an object a line."""
    path = f"/jobs/{segment(job_id)}"
    if not follow:
        _show_all(list(_lines(path, given(attempt=attempt), {})), as_json)
        return
    position: dict[str, Any] = {}
    for finished in _looks(path):
        for line in _lines(path, given(attempt=attempt), position):
            if as_json:
                say_json(line)
            else:
                say(_text(line))
        if finished:
            return


def _show_all(lines: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        say_json({"items": lines})
        return
    for text in map(_text, lines) if lines else ["nothing is logged"]:
        say(text)


def _looks(path: str) -> Iterator[bool]:
    """Whether the job has finished, again and again until it has: at once when it changes, else every second."""
    etag: str | None = None
    while True:
        headers = {"If-None-Match": etag} if etag else {}
        answer = call("GET", path, params={"wait": BETWEEN_LOOKS} if etag else None, headers=headers)
        finished = answer.status != 304 and body_of(answer)["status"] in FINISHED
        etag = answer.headers["etag"]
        yield finished
        if finished:
            return


def _lines(path: str, filters: dict[str, Any], position: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines behind `position`, which is moved behind them."""
    more = True
    while more:
        page = ask("GET", f"{path}/logs", params=filters | position)
        yield from page["items"]
        position |= given(cursor=page["resume"])
        more = page["next"] is not None


def _text(line: dict[str, Any]) -> str:
    fields = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in line["fields"].items())
    return f"{line['at'][11:23]} #{line['attempt']} {line['level']:<8} {line['message']} {fields}".rstrip()
