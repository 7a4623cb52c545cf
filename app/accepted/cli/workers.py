"""`accepted workers`: the live processes of the service, and how one is drained."""

from datetime import UTC, datetime
from typing import Any

import typer

from accepted.cli.client_commands import ClientCommands
from accepted.cli.http import AsJson, ask, say, say_json, segment

workers = ClientCommands(no_args_is_help=True, help="List the processes of the service, and drain one.")


@workers.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the live workers, schedulers and API processes, and the jobs that run."""
    page = ask("GET", "/workers")
    if as_json:
        say_json(page)
        return
    if not page["items"]:
        typer.echo("no live processes", err=True)
    for one in page["items"]:
        _show(one)


@workers.command()
def drain(id: str, as_json: AsJson = False) -> None:
    """Have a process take no more, finish what it holds, and exit."""
    one = ask("POST", f"/workers/{segment(id)}/drain")
    if as_json:
        say_json(one)
    else:
        say(f"{one['kind']} {one['name']} drains; it finishes {one['busy']} jobs")


def _show(one: dict[str, Any]) -> None:
    state = "draining" if one["draining"] else f"up {_age(one['started_at'])}"
    slots = f"{one['busy']}/{one['slots']} slots" if one["kind"] == "worker" else ""
    failing = [loop["name"] for loop in one["loops"] if _fails(loop)]
    queues = ", ".join(one["queues"][:5]) + (", ..." if len(one["queues"]) > 5 else "")
    details = [slots, queues, f"failing: {', '.join(failing)}" if failing else ""]
    shown = f"{one['id']}  {one['kind']:<9}  {one['name']}  {state}  {'  '.join(filter(None, details))}"
    say(shown.rstrip())
    for job in one["running"]:
        ending = "  ending" if job["ending"] else ""
        say(f"    {job['id']}  {job['type']}  attempt {job['attempt']}  {_age(job['started_at'])}{ending}")
    if one["more_running"]:
        say(f"    and {one['more_running']} more")


def _fails(loop: dict[str, Any]) -> bool:
    """Whether its last round failed."""
    ran, succeeded = loop["last_run_at"], loop["last_success_at"]
    return bool(loop["failures"]) and (succeeded is None or succeeded < ran)


def _age(since: str) -> str:
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds(), 0)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
