"""Brings the schema up to date with Alembic. Safe from several places at once, and while the service runs."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import accepted
from accepted.storage.db.engine import create_engine, transaction

LOCK = 0x6163_6370
"""The advisory lock under which one migration runs at a time."""

_PACKAGE = Path(accepted.__file__).parent
_IN_WHEEL, _IN_SOURCES = _PACKAGE / "migrations", _PACKAGE.parents[1] / "alembic"
MIGRATIONS = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_SOURCES
"""The directory of the migrations: pyproject.toml puts it into the package when a wheel is built."""


async def migrate(url: str) -> None:
    """Upgrade the ledger at `url` to the newest schema, in one transaction. Raises `LedgerUnavailable`."""
    engine = create_engine(url, pool_size=1, command_timeout=None)
    try:
        async with transaction(engine) as conn:
            await conn.execute(text("SET LOCAL statement_timeout = 0"))
            await conn.execute(text("SET LOCAL lock_timeout = 0"))
            await conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            await conn.execute(text("SET LOCAL lock_timeout = '3s'"))
            await conn.run_sync(_upgrade)
            await conn.commit()
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
