"""Runs the migrations on the connection that `accepted.storage.db.migrate` hands over, or prints them as SQL."""

from alembic import context

from accepted.storage.db.engine import SCHEMA

connection = context.config.attributes.get("connection")
context.configure(
    connection=connection,
    dialect_name="postgresql",
    dialect_opts={"paramstyle": "named"},  # or every % in a function would be printed twice
    version_table_schema=SCHEMA,
)
with context.begin_transaction():
    if context.is_offline_mode():
        context.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        context.execute(f"SET LOCAL search_path TO {SCHEMA}")
    context.run_migrations()
