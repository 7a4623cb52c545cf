"""`accepted status`: what is wrong right now."""

import typer

from accepted.cli.client_commands import calls_the_api
from accepted.cli.http import AsJson, ask, say, say_json


@calls_the_api
def status(as_json: AsJson = False) -> None:
    """Say what is wrong right now, since when, and what to do. Exit code 1 if anything is."""
    found = ask("GET", "/status")
    if as_json:
        say_json(found)
    elif found["ok"]:
        say("nothing is wrong")
    for problem in () if as_json else found["problems"]:
        say(f"{problem['kind']}: {problem['sentence']}")
        say(f"  since {problem['since'][:19]}Z; {problem['link']}")
        say(f"  {problem['what_to_do']}")
    if not found["ok"]:
        raise typer.Exit(1)
