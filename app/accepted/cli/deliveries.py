"""`accepted deliveries`: list webhook deliveries, and send them again."""

from typing import Annotated, Any

import typer

from accepted.cli.client_commands import ClientCommands
from accepted.cli.http import AsJson, ask, given, say, say_json, say_lines, segment

deliveries = ClientCommands(no_args_is_help=True, help="List webhook deliveries, and send them again.")


@deliveries.command("list")
def list_(
    job: Annotated[str | None, typer.Option(help="Only about this job.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only about this batch.")] = None,
    status: Annotated[str | None, typer.Option(help="Only of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="The newest so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest deliveries."""
    filters = given(job_id=job, batch_id=batch, status=status, limit=limit)
    page = ask("GET", "/webhook-deliveries", params=filters)
    if as_json:
        say_json(page)
    else:
        say_lines(map(_line, page["items"]), "no deliveries")


@deliveries.command()
def redeliver(delivery_id: str, as_json: AsJson = False) -> None:
    """Send a webhook again, now."""
    sent = ask("POST", f"/webhook-deliveries/{segment(delivery_id)}/redeliver")
    if as_json:
        say_json(sent)
    else:
        say(_line(sent))


def _line(delivery: dict[str, Any]) -> str:
    attempts = delivery["attempts"]
    last = attempts[-1]["status_code"] if attempts else None
    tried = f"{len(attempts)} attempts{f', last {last}' if last else ''}"
    return f"{delivery['id']}  {delivery['status']:<10} {delivery['event']:<15} {delivery['url']}  {tried}"
