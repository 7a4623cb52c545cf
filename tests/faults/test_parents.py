"""A process that others belong to is killed: they go with it, and what they held is free."""

import asyncio
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.table import Measured
from tests.support.servers.children import descendants, kill_all
from tests.support.servers.ports import free_port
from tests.support.service.processes import Service, StartService, answers
from tests.support.waiting import until

GONE_WITHIN = 5.0  # seconds
BOOT_WITHIN = 90.0


@pytest.mark.fault("F67", moment="idle")
async def test_the_parent_of_api_processes_killed(
    database_url: str, start_service: StartService, measured: Measured
) -> None:
    """Their port is free at once: the next one answers on it."""
    port = free_port()
    env = {"ACCEPTED_DATABASE_URL": database_url, "ACCEPTED_AUTH": "off"}
    api = start_service("api", "--port", str(port), "--workers", "2", env=env)
    ready = answers(f"http://127.0.0.1:{port}/readyz")
    await api.wait_ready(ready, BOOT_WITHIN)
    await until(lambda: _listening(api, port) == 2, BOOT_WITHIN, "both processes to listen", interval=0.2)
    seconds = await _kill_parent(api)
    measured("until no process was left", seconds, GONE_WITHIN)
    api.start()
    await api.wait_ready(ready, BOOT_WITHIN)
    assert await api.terminate() == 0


@pytest.mark.fault("F67", moment="idle")
async def test_dev_killed(tmp_path: Path, start_service: StartService, measured: Measured) -> None:
    """Its PostgreSQL stops, in order: the next start has nothing to recover."""
    port, data = free_port(), tmp_path / "data"
    dev = start_service("dev", "--port", str(port), "--data-dir", str(data), env={})
    await dev.wait_ready(answers(f"http://127.0.0.1:{port}/readyz"), BOOT_WITHIN)
    postmaster = data / "postgres" / "postmaster.pid"
    server = psutil.Process(int(postmaster.read_text().split()[0]))
    dev.signal(signal.SIGKILL)
    killed = time.monotonic()
    await until(lambda: not postmaster.exists() and not server.is_running(), 30, "the end of PostgreSQL")
    measured("until PostgreSQL had stopped", time.monotonic() - killed, GONE_WITHIN)
    assert "database system is shut down" in (data / "postgres" / "log").read_text()


def _listening(service: Service, port: int) -> int:
    """How many children have the port open."""
    return sum(
        any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in child.net_connections("tcp"))
        for child in _children_of(service)
    )


async def _kill_parent(service: Service) -> float:
    """SIGKILL for the process alone. Returns the seconds until none of its children is left."""
    children = _children_of(service)
    service.signal(signal.SIGKILL)
    killed = time.monotonic()
    try:
        await until(lambda: not any(_runs(child) for child in children), 30, lambda: f"the end of {children}")
    finally:
        await asyncio.to_thread(kill_all, children)
    return time.monotonic() - killed


def _children_of(service: Service) -> list[psutil.Process]:
    return [child for child in descendants(service.pid) if "spawn_main" in " ".join(child.cmdline())]


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
