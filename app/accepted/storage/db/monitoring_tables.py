"""The tables by which people see what happens: what handlers have logged."""

from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, Table
from sqlalchemy.dialects.postgresql import JSON, UUID

from accepted.storage.db import service_tables

metadata = service_tables.queues.metadata
"""That of the tables of all modules."""

attempt_logs = Table(
    "attempt_logs",
    metadata,
    Column("job_id", UUID, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("lines", JSON, nullable=False),
    PrimaryKeyConstraint("job_id", "attempt", "last"),
)
