"""Serving HTTP with uvicorn: the bounds that it does not set by itself, and a stop that leaves nobody hanging."""

import ipaddress
import signal
from types import FrameType

import uvicorn
from fastapi import FastAPI

from accepted.api.http.protocol import DeadlineProtocol
from accepted.errors import ConfigurationError
from accepted.settings import Settings

BACKLOG = 2048
KEEP_ALIVE = 15
"""Seconds for which an idle connection is kept."""


class Server(uvicorn.Server):
    """A clean stop exits 0: uvicorn's own server raises the signal once more when it is done."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def config(app: "FastAPI | str", settings: Settings, host: str, port: int, workers: int = 1) -> uvicorn.Config:
    """uvicorn's configuration for our application."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http=DeadlineProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(int(settings.shutdown_grace) - 1, 1),
    )


def check_exposure(settings: Settings, host: str, insecure: bool) -> None:
    """Refuse to serve without authentication where others can reach it."""
    if settings.auth == "off" and not insecure and not _is_loopback(host):
        raise ConfigurationError(
            f"ACCEPTED_AUTH=off: refused on {host}, which is not loopback; use required, or give --insecure"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
