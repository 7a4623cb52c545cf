"""`accepted targets`: the hosts that jobs call and that fail or are deferred."""

from typing import Annotated

import typer

from accepted.cli.http import AsJson, ask, say, say_json, segment

targets = typer.Typer(no_args_is_help=True, help="List the hosts that fail or are deferred, and release them.")


@targets.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the hosts whose last call failed, or that are deferred."""
    page = ask("GET", "/targets")
    if as_json:
        say_json(page)
        return
    for one in page["items"]:
        until = (one["deferred_until"] or "")[:19]
        say(f"{one['host']:<40} {one['state']:<10} {one['failures']:>4} {one['reason']:<13} {until}".rstrip())


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
