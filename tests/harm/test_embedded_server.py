"""Another user of the machine where `accepted dev` runs, and the superuser of its embedded PostgreSQL."""

import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from accepted.storage.db import embedded as embedded_postgres
from tests.support.service.running_service import serving

NOBODY = 65534
STARTUP = b"user\0postgres\0database\0postgres\0\0"
LONG = "a-name-that-is-not-short-" * 4

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


@dataclass(frozen=True)
class Embedded:
    """A server that runs: its data, and the directory where its socket is looked for."""

    data: Path
    directory: str


@pytest.fixture(scope="module", params=["short", LONG, "with blanks"], ids=["short", "long", "quoted"])
async def embedded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Embedded]:
    directory = tmp_path_factory.mktemp("dev") / request.param
    async with serving("", {}, dev=True, more=["--data-dir", str(directory)]):
        data = directory / "postgres"
        yield Embedded(data, (data / "postmaster.pid").read_text().splitlines()[4])


@pytest.mark.fault("F81", moment="while it runs")
def test_the_socket_lies_in_a_directory_of_one_user(embedded: Embedded) -> None:
    place = Path(embedded.directory).resolve()
    assert (place / ".s.PGSQL.5432").is_socket()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert not (embedded.data / "postmaster.pid").read_text().splitlines()[5], "it listens on no address"


@pytest.mark.fault("F81", moment="while it runs")
async def test_whoever_reaches_the_socket_is_asked_for_by_the_kernel(embedded: Embedded) -> None:
    ours = await asyncpg.connect(host=embedded.directory, user="postgres", database="postgres")
    try:
        rules = await ours.fetch("SELECT type, auth_method FROM pg_hba_file_rules")
        assert [(row["type"], row["auth_method"]) for row in rules] == [("local", "peer")]
    finally:
        await ours.close()


@as_root
@pytest.mark.fault("F81", moment="while it runs")
def test_another_user_neither_reaches_it_nor_gets_in(embedded: Embedded) -> None:
    with another_user(), pytest.raises(PermissionError):
        answer(embedded.directory)
    embedded.data.chmod(0o711)
    try:
        with another_user():
            assert b"Peer authentication failed" in answer(embedded.directory)
    finally:
        embedded.data.chmod(0o700)


@contextmanager
def another_user() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def answer(directory: str) -> bytes:
    """What the server answers to somebody who wants to be its superuser."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(10)
        caller.connect(f"{directory}/.s.PGSQL.5432")
        caller.sendall(struct.pack("!II", len(STARTUP) + 8, 196608) + STARTUP)
        return caller.recv(1000)


@pytest.mark.fault("F81", moment="before it starts")
def test_a_directory_that_another_was_quicker_to_make_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o777)
    (tmp_path / f"accepted-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ours = embedded_postgres._directory_of_ours()
    assert tmp_path not in ours.parents
    assert stat.S_IMODE(ours.stat().st_mode) & 0o066 == 0
