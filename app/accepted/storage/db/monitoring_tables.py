"""The tables by which people see what happens: what handlers have logged, and statistics."""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Identity,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSON, UUID

from accepted.domain.monitoring.statistics import COUNTED
from accepted.storage.db import service_tables
from accepted.storage.db.job_tables import Moment

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

statistic_series = Table(
    "statistic_series",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("type", Text, nullable=False),
    UniqueConstraint("tenant", "queue", "type"),
)

statistics = Table(
    "statistics",
    metadata,
    Column("series", Integer, ForeignKey("statistic_series.id"), nullable=False),
    Column("span", Integer, nullable=False),
    Column("at", Moment, nullable=False),
    *(Column(name, Integer, nullable=False, server_default="0") for name in COUNTED),
    Column("depth", Integer),
    Column("oldest", Float),
    PrimaryKeyConstraint("series", "span", "at"),
)
