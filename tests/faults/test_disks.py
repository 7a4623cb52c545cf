"""Disks that are full: PostgreSQL's, and the one that the logs go to."""

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.servers.postgres import PostgresServer
from tests.support.service.processes import StartService, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SIZE = "300m"
SMALL_WAL = {"max_wal_size": "64MB", "min_wal_size": "32MB", "wal_recycle": "off", "wal_init_zero": "off"}
PROMISED = 5.0  # seconds to a 503
SLACK = 1.5  # seconds for the client and a busy machine
FULL = Path("/dev/full")
PIPE = 64 * 1024  # bytes that a pipe holds


@pytest.fixture
def little_disk() -> Iterator[Path]:
    """A disk of its own for PostgreSQL: a tmpfs."""
    where = Path(tempfile.mkdtemp(prefix="accepted-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", where], capture_output=True)
    if mounted.returncode:
        where.rmdir()
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    yield where
    subprocess.run(["umount", "--lazy", where], check=True)
    where.rmdir()


@pytest.fixture
def cramped(little_disk: Path) -> Iterator[PostgresServer]:
    home = little_disk / "postgres"
    home.mkdir()
    server = PostgresServer(settings=SMALL_WAL, home=home)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.fault("F23", moment="under load")
async def test_the_disk_of_postgres_is_full(
    cluster: Cluster, client: Client, cramped: PostgresServer, little_disk: Path, measured: Measured
) -> None:
    """Refused with 503 for as long as nothing fits; PostgreSQL may well panic and come back on the way."""
    url = cramped.create_database(f"full_{uuid4().hex}")
    run("migrate", env={"ACCEPTED_DATABASE_URL": url})
    ledger = Ledger(url)
    cluster.env["ACCEPTED_DATABASE_URL"] = url
    await cluster.start()
    await client.load(50)
    ballast = little_disk / "ballast"
    await asyncio.to_thread(_fill, ballast)
    big = {"fail_text": None, "poison": "x" * 50_000}
    refused = []
    begun = time.monotonic()
    while time.monotonic() - begun < 15:
        calls = await asyncio.gather(*(client.submit(big) for _ in range(20)))
        refused += [call for call in calls if not call.accepted]
    assert len(refused) > 20, "the disk never was full"
    assert {call.status for call in refused} == {503}
    measured("slowest refusal", max(call.seconds for call in refused), PROMISED + SLACK)
    ballast.unlink()
    await asyncio.to_thread(cramped.start)
    back = time.monotonic()
    await client.accept()
    measured("from free space to a 202", time.monotonic() - back, 2 * PROMISED)
    for call in refused:
        await client.accept(big, key=call.key)
    await check(ledger, client, cluster.journal)


@pytest.mark.fault("F49", moment="under load")
@pytest.mark.parametrize("log", ["a full disk", "a pipe that nobody reads"])
async def test_a_log_that_nothing_can_be_written_to(
    log: str, start_service: StartService, cluster: Cluster, client: Client, ledger: Ledger, tmp_path: Path
) -> None:
    await cluster.start()
    with _unwritable(log, tmp_path) as path:
        for service in cluster.services:
            await service.terminate(20)
            service.start(log=path)
        await cluster.api_ready()
        await client.load(400, clients=16)
        await check(ledger, client, cluster.journal)
        assert {call.status for call in client.calls} == {202}
        for service in cluster.services:
            assert await service.terminate(20) == 0


class _unwritable:
    """`/dev/full`, where each write fails; or a pipe that is full, where each write would wait for ever."""

    def __init__(self, what: str, directory: Path) -> None:
        self._fifo = None if what == "a full disk" else directory / "log-pipe"

    def __enter__(self) -> Path:
        if self._fifo is None:
            return FULL
        os.mkfifo(self._fifo)
        self._reader = os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.write(writer, b"x" * PIPE)
        os.close(writer)
        return self._fifo

    def __exit__(self, *_: object) -> None:
        if self._fifo is not None:
            os.close(self._reader)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(2**20)) == 2**20:
                pass
        except OSError:
            pass
