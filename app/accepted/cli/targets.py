"""`accepted targets`: the hosts that jobs call and that fail or are deferred."""

from typing import Annotated, Any

import typer

from accepted.cli.client_commands import ClientCommands
from accepted.cli.http import AsJson, ask, say, say_json, say_lines, segment

targets = ClientCommands(no_args_is_help=True, help="List the hosts that fail or are deferred, and release them.")


@targets.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the hosts whose last call failed, or that are deferred."""
    page = ask("GET", "/targets")
    if as_json:
        say_json(page)
        return
    say_lines(map(_line, page["items"]), "no host fails or is deferred")


@targets.command()
def release(
    host: Annotated[str, typer.Argument(help="With its port: example.com:443")], as_json: AsJson = False
) -> None:
    """Call a host as usual again, and release the jobs that wait for it."""
    done = ask("POST", f"/targets/{segment(host)}/release")
    if as_json:
        say_json(done)
    else:
        say(f"{done['host']} and {done['released']} waiting jobs released")


def _line(target: dict[str, Any]) -> str:
    until = (target["deferred_until"] or "")[:19]
    known = f"{target['host']:<40} {target['state']:<10} {target['failures']:>4} {target['reason']:<13} {until}"
    return known.rstrip()
