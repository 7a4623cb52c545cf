"""What Alembic makes is what the tables of `app/accepted/storage/db` say."""

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from accepted.storage.db.engine import create_engine, transaction
from accepted.storage.db.monitoring_tables import metadata

OPTIONS = {"compare_type": True}  # defaults: below; Alembic compares them with =, which json has not
INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'accepted' AND tablename <> :ours"
COLUMNS = r"""
SELECT table_name, column_name, data_type, udt_name, is_nullable,
    regexp_replace(column_default, '''|::[a-z\[\] ]+$', '', 'g') FROM information_schema.columns
WHERE table_schema = 'accepted' AND table_name <> :ours
"""
STORAGE = """
SELECT relname, relkind, reloptions::text FROM pg_class
WHERE relnamespace = 'accepted'::regnamespace AND relkind IN ('r', 'v', 'm', 'S') AND relname <> :ours
"""
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'accepted'::regnamespace AND conrelid::regclass::text <> :ours
"""


async def test_alembic_finds_no_difference(database_url: str) -> None:
    def compare(connection: Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection, opts=OPTIONS), metadata)

    engine = create_engine(database_url)
    async with transaction(engine) as conn:
        assert await conn.run_sync(compare) == []
    await engine.dispose()


async def test_neither_does_the_catalogue(database_url: str, empty_database_url: str) -> None:
    """Partial indexes, their order and the fill factor are beyond what Alembic compares."""
    migrated, made = create_engine(database_url), create_engine(empty_database_url)
    async with transaction(made) as conn:
        await conn.execute(text("CREATE SCHEMA accepted"))
        await conn.run_sync(metadata.create_all)
        await conn.commit()
    for query in (INDEXES, COLUMNS, STORAGE, CONSTRAINTS):
        found = []
        for engine in (migrated, made):
            async with transaction(engine) as conn:
                found.append({tuple(row) for row in await conn.execute(text(query), {"ours": "alembic_version"})})
        assert found[0] == found[1]
        assert found[0] or query is CONSTRAINTS
    await migrated.dispose()
    await made.dispose()
