"""How the commands print a job."""

import json
from typing import Any

from accepted.cli.http import say, say_json


def show(job: dict[str, Any], as_json: bool) -> None:
    """Print a job, with its result or error."""
    if as_json:
        say_json(job)
        return
    say(line(job))
    for name in ("result", "error"):
        if job[name] is not None:
            say(f"  {name}: {json.dumps(job[name])}")


def line(job: dict[str, Any]) -> str:
    attempts = f"attempt {job['attempt']}/{job['max_attempts']}"
    return f"{job['id']}  {job['status']:<10} {job['type']:<20} {job['queue']:<12} {attempts}"
