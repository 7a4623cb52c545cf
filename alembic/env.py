"""Runs the migrations on the connection that `accepted.storage.db.migrate` hands over."""

from alembic import context

from accepted.storage.db.flow_tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
