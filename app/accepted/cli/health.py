"""`accepted healthcheck`: asks the process in this container, or the service at a URL, whether it is alive."""

import json
import os
from http import HTTPStatus
from typing import Annotated

import typer

from accepted.cli.client_commands import calls_the_api, client_options, client_setting
from accepted.cli.http import AsJson, ask, say_whether
from accepted.environment import DOT_ENV, PREFIX
from accepted.errors import AcceptedError

PATIENCE = 4.0
"""Seconds for an answer. The metrics port has threads of its own, which answer whatever the process does."""


class Unhealthy(AcceptedError):
    """The process does not answer, or says that it does not work."""


API_PORT = 8000
Port = Annotated[int | None, typer.Option(min=1, max=65535, help=f"Port of the API in this container ({API_PORT}).")]
MetricsPort = Annotated[int | None, typer.Option(min=1, max=65535, help=f"Overrides {PREFIX}METRICS_PORT.")]


@calls_the_api
def healthcheck(port: Port = None, metrics_port: MetricsPort = None, as_json: AsJson = False) -> None:
    """Exit 0 if the process in this container is alive and its loops turn, else 1 with a sentence.

    With --url, or without a port but with ACCEPTED_URL, it asks the service there.
    """
    say_whether("healthy", "healthy", lambda: _check(metrics_port or port), as_json)


def _check(port: int | None) -> None:
    """The URL that an option names, else a port, else the URL of the environment: a worker may have one of the API."""
    local = None if client_options() else port or port_of_metrics()
    if local is None and client_setting("url"):
        ask("GET", "/healthz")
    else:
        check(local or API_PORT)


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


def check(port: int) -> None:
    """Raises `Unhealthy` with a sentence that says what is wrong."""
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
    if answer.status != HTTPStatus.OK:
        raise Unhealthy(f"{where} answers {answer.status}: {_stuck(body)}")


def _stuck(body: bytes) -> str:
    try:
        return f"these loops have stopped turning: {', '.join(json.loads(body)['loops'])}"
    except (ValueError, KeyError, TypeError):
        return "this is not the health of Accepted"
