"""`accepted healthcheck`: asks the process in this container whether it is alive, and whether its loops turn."""

import json
import os
from http import HTTPStatus
from typing import Annotated

import typer

from accepted.environment import DOT_ENV, PREFIX
from accepted.errors import AcceptedError

PATIENCE = 4.0
"""Seconds for an answer. The metrics port has threads of its own, which answer whatever the process does."""


class Unhealthy(AcceptedError):
    """The process does not answer, or says that it does not work."""


Port = typer.Option(min=1, max=65535, help="Port of an API without a port for metrics.")
MetricsPort = typer.Option(min=1, max=65535, help=f"Overrides {PREFIX}METRICS_PORT.")


def healthcheck(port: Annotated[int, Port] = 8000, metrics_port: Annotated[int | None, MetricsPort] = None) -> None:
    """Exit 0 if the process in this container is alive and its loops turn, else 1 with a sentence."""
    typer.echo(check(metrics_port or port_of_metrics() or port))


def port_of_metrics() -> int | None:
    """The port that the settings name for metrics, if they name one.

    To load all settings takes ten times the CPU of all else here, so it is done only where a `.env` may name the port.
    """
    given = os.environ.get(f"{PREFIX}METRICS_PORT", "")
    if given.isdecimal():
        return int(given)
    if given or not os.path.exists(DOT_ENV):
        return None

    from accepted.settings import load

    return load().metrics_port


def check(port: int) -> str:
    """A sentence that says that all is well. Raises `Unhealthy` with one that says what is not."""
    import http.client

    where = f"http://127.0.0.1:{port}/healthz"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        body = answer.read(10_000)
    except (OSError, http.client.HTTPException) as error:
        raise Unhealthy(f"{where} does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if answer.status == HTTPStatus.OK:
        return "healthy"
    raise Unhealthy(f"{where} answers {answer.status}: {_stuck(body)}")


def _stuck(body: bytes) -> str:
    try:
        return f"these loops have stopped turning: {', '.join(json.loads(body)['loops'])}"
    except (ValueError, KeyError, TypeError):
        return "this is not the health of Accepted"
