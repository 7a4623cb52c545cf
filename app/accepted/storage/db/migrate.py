"""Brings the schema up to date with Alembic. Safe from several places at once, and while the service runs."""

import io
from pathlib import Path
from typing import NamedTuple

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

import accepted
from accepted.errors import ConfigurationError
from accepted.storage.db.engine import SCHEMA, create_engine, reading, transaction
from accepted.storage.db.statements import Statement

LOCK = 0x6163_6370
"""The advisory lock under which one migration runs at a time."""

_PACKAGE = Path(accepted.__file__).parent
_IN_WHEEL, _IN_SOURCES = _PACKAGE / "migrations", _PACKAGE.parents[1] / "alembic"
MIGRATIONS = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_SOURCES
"""The directory of the migrations: pyproject.toml puts it into the package when a wheel is built."""

_PREPARE = (
    Statement("SET LOCAL statement_timeout = 0"),
    Statement("SET LOCAL lock_timeout = 0"),
    Statement(f"SELECT pg_advisory_xact_lock({LOCK})"),
    Statement("SET LOCAL lock_timeout = '3s'"),
)
"""Waits without a limit for another migration, then at most 3 s for each lock on a table."""

_ROLE = Statement("SELECT current_user AS role, current_database() AS database")
_CREATE_SCHEMA = Statement(f"CREATE SCHEMA {SCHEMA}")
_SCHEMA_EXISTS = Statement(f"SELECT to_regnamespace('{SCHEMA}') IS NOT NULL")
_VERSION_EXISTS = Statement(f"SELECT to_regclass('{SCHEMA}.alembic_version') IS NOT NULL")
_VERSION = Statement(f"SELECT version_num FROM {SCHEMA}.alembic_version")


class Revisions(NamedTuple):
    """The schema's revision in the ledger (None: no schema yet), the one that this code needs, and all it knows."""

    ledger: str | None
    needed: str
    known: frozenset[str]

    @property
    def problem(self) -> str | None:
        """What is wrong, and what to do about it; None when the two are equal."""
        if self.ledger == self.needed:
            return None
        if self.ledger is None or self.ledger in self.known:
            return (
                f"the ledger is behind: its schema has revision {self.ledger or 'none'}, "
                f"this version needs {self.needed}; run `accepted migrate`"
            )
        return (
            f"the ledger is ahead: its schema has revision {self.ledger}, "
            f"this version needs {self.needed}; install the newer version"
        )


async def migrate(url: str) -> None:
    """Upgrade the ledger at `url` to the newest schema, in one transaction.

    Raises `LedgerUnavailable`, and `ConfigurationError` when the role may not create the schema.
    """
    engine = create_engine(url, pool_size=1, command_timeout=None)
    try:
        async with transaction(engine) as conn:
            for statement in _PREPARE:
                await statement.run(conn)
            await _create_schema(conn)
            await conn.run_sync(_upgrade)
            await conn.commit()
    finally:
        await engine.dispose()


async def revisions(url: str) -> Revisions:
    """What the ledger at `url` has and what this code needs. Raises `LedgerUnavailable`."""
    scripts = ScriptDirectory.from_config(_config())
    known = frozenset(script.revision for script in scripts.walk_revisions())
    engine = create_engine(url, pool_size=1)
    try:
        async with reading(engine) as conn:
            ledger = await _VERSION.value(conn) if await _VERSION_EXISTS.value(conn) else None
    finally:
        await engine.dispose()
    return Revisions(ledger, scripts.get_current_head() or "none", known)


def as_sql() -> str:
    """The SQL that makes an empty database's schema; needs no connection."""
    written = io.StringIO()
    command.upgrade(_config(written), "head", sql=True)
    return written.getvalue()


async def _create_schema(conn: AsyncConnection) -> None:
    """Only if it is missing: `IF NOT EXISTS` asks for the right to create it even when it is there."""
    if await _SCHEMA_EXISTS.value(conn):
        return
    (row,) = await _ROLE.rows(conn)
    role, database = row["role"], row["database"]
    try:
        await _CREATE_SCHEMA.run(conn)
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != "42501":
            raise
        raise ConfigurationError(
            f"role {role!r} may not create the schema {SCHEMA!r} in database {database!r}; "
            f'as the owner of the database run: CREATE SCHEMA {SCHEMA} AUTHORIZATION "{role}"'
        ) from None


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config(output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
