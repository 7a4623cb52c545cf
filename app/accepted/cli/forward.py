"""`accepted forward`: submits the jobs of a caller's outbox (docs/transactions.md)."""

from typing import Annotated

import typer

from accepted.cli.client_commands import calls_the_api, client_setting
from accepted.environment import PREFIX
from accepted.errors import ConfigurationError

LEAST_LIFETIME = 600
"""Seconds: several times what a batch may take."""


@calls_the_api
def forward(
    database_url: Annotated[str, typer.Option(help="The database that has the table accepted_outbox.")],
    key_lifetime: Annotated[
        int, typer.Option(min=LEAST_LIFETIME, help=f"{PREFIX}IDEMPOTENCY_TTL of the service, in seconds.")
    ] = 86_400,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="For /metrics and /healthz of this process.")
    ] = None,
) -> None:
    """Submit the jobs of an outbox in another database, each once, and delete them from it."""
    import uvloop

    from accepted import logs
    from accepted import metrics_port as port_of_metrics
    from accepted.domain.network.servers import PostgresUrl
    from accepted.forwarding import process

    try:
        PostgresUrl.parse(database_url)
    except ValueError as error:
        raise ConfigurationError(f"--database-url: {error}") from None
    logs.configure(pretty=False)
    port_of_metrics.listen(metrics_port)
    uvloop.run(process.run(database_url, client_setting("url"), client_setting("api_key"), key_lifetime))
