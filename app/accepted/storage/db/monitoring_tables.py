"""The tables by which people see what happens: processes, what handlers have logged, statistics, and the audit."""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, UUID

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

processes = Table(
    "processes",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("part_of", Text),
    Column("started_at", Moment, nullable=False),
    Column("heartbeat_at", Moment, nullable=False, server_default=func.now()),
    Column("drain_requested_at", Moment),
    Column("queues", ARRAY(Text), nullable=False, server_default="{}"),
    Column("outcomes", JSON, nullable=False, server_default="{}"),
    Column("loops", JSON, nullable=False, server_default="[]"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("at", Moment, nullable=False, server_default=func.now()),
    Column("tenant", Text, nullable=False),
    Column("key_id", UUID),
    Column("key_name", Text),
    Column("address", Text),
    Column("action", Text, nullable=False),
    Column("target", Text),
    Column("detail", JSON, nullable=False),
    Index("audit_by_tenant", "tenant", "id"),
)
