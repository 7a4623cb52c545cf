"""Brings the schema up to date with Alembic, and compares it with what this code needs.

A migration is safe from several places at once, and while the service runs. Only migrating loads Alembic, which takes
0.3 s; each process of the service compares as it starts.
"""

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import accepted
from accepted.domain.network.servers import first_line
from accepted.errors import ConfigurationError, LedgerUnavailable
from accepted.storage.db.engine import SCHEMA, create_engine, reading, transaction, where
from accepted.storage.db.statements import Statement

if TYPE_CHECKING:
    from alembic.config import Config

log = structlog.get_logger(__name__)

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
_VERSION = Statement(f"""
SELECT (SELECT version_num FROM {SCHEMA}.alembic_version LIMIT 1) AS revision,
       (SELECT 1 FROM (SELECT FROM {SCHEMA}.jobs LIMIT 1) AS any_job) AS readable
""")
"""Also reads from `jobs`, to see that the ledger answers about jobs too."""

_NO_SCHEMA, _NO_RIGHTS = ("42P01", "3F000"), "42501"
"""SQLSTATE of a missing table or schema, and of a missing right."""


class Revisions(NamedTuple):
    """The schema's revision in the ledger (None: no schema yet), the one that this code needs, and all it knows."""

    ledger: str | None
    needed: str
    known: frozenset[str]

    @property
    def behind(self) -> bool:
        """Whether this code cannot work with the schema. It can with a newer one (docs/upgrading.md)."""
        return self.ledger != self.needed and (self.ledger is None or self.ledger in self.known)

    @property
    def problem(self) -> str | None:
        """What is wrong, and what to do about it; None when the two are equal."""
        if self.ledger == self.needed:
            return None
        has, needs = f"its schema has revision {self.ledger or 'none'}", f"this version needs {self.needed}"
        if self.behind:
            return f"{has}, which is behind: {needs}; run `accepted migrate`"
        return f"{has}, which is ahead: {needs}; install the newer version"


async def migrate(url: str) -> None:
    """Upgrade the ledger at `url` to the newest schema, in one transaction.

    Raises `LedgerUnavailable`, and `ConfigurationError` when the role may not create the schema, or a newer version of
    this program has made it.
    """
    engine = create_engine(url, pool_size=1, command_timeout=None)
    try:
        found = await revisions(engine)
        if found.problem and not found.behind:
            raise ConfigurationError(f"{_where(engine)}: {found.problem}")
        async with transaction(engine) as conn:
            for statement in _PREPARE:
                await statement.run(conn)
            await _create_schema(conn)
            await conn.run_sync(_upgrade)
            await conn.commit()
    finally:
        await engine.dispose()


async def revisions(engine: AsyncEngine) -> Revisions:
    """What the ledger has, and what this code needs. Raises `LedgerUnavailable`, also without the right to look."""
    try:
        async with reading(engine) as conn:
            row = await _VERSION.first(conn)
    except LedgerUnavailable as error:
        if _sqlstate(error.__cause__) not in _NO_SCHEMA:
            raise
        row = None
    except ProgrammingError as error:
        if _sqlstate(error) == _NO_RIGHTS:
            said = first_line((error.orig and error.orig.__cause__) or error)
            raise LedgerUnavailable(f"{_where(engine)}: {said}; grant it, or name the owner as user") from error
        if _sqlstate(error) not in _NO_SCHEMA:
            raise
        row = None
    known = _known_revisions(MIGRATIONS)
    return Revisions(row["revision"] if row else None, max(known), known)


async def check(engine: AsyncEngine) -> str | None:
    """None if the schema is what this code needs; a sentence about it if it is newer, which still serves.

    Raises `LedgerUnavailable` if it is older or missing. Each text names host, user and database, and what to do.
    """
    found = await revisions(engine)
    if found.problem is None:
        return None
    problem = f"{_where(engine)}: {found.problem}"
    if found.behind:
        raise LedgerUnavailable(problem)
    return problem


async def check_at_start(engine: AsyncEngine) -> None:
    """As `check`, and logs the sentence about a newer schema."""
    if ahead := await check(engine):
        log.warning("schema_ahead", error=ahead)


def as_sql() -> str:
    """The SQL that makes an empty database's schema; needs no connection."""
    from alembic import command

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


@cache
def _known_revisions(migrations: Path) -> frozenset[str]:
    """Read once: /readyz compares each time that it is asked."""
    return frozenset(path.name.partition("_")[0] for path in (migrations / "versions").glob("*.py"))


def _where(engine: AsyncEngine) -> str:
    return where(engine.url.host, engine.url.username, engine.url.database)


def _sqlstate(error: BaseException | None) -> str:
    return str(getattr(getattr(error, "orig", None) or error, "sqlstate", None))


def _upgrade(connection: Connection) -> None:
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config(output: io.StringIO | None = None) -> "Config":
    from alembic.config import Config

    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
