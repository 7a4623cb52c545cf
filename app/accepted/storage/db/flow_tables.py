"""The tables of time and flow (docs/waiting.md): what jobs wait for, and what makes jobs by itself.

A job that uses none of this never touches them.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, UUID

from accepted.storage.db.tables import Moment, metadata

dependencies = Table(
    "dependencies",
    metadata,
    Column("needs", UUID, nullable=False),
    Column("job_id", UUID, nullable=False),
    Column("on_success", Boolean, nullable=False),
    Column("broken", Boolean, nullable=False, server_default="false"),
    PrimaryKeyConstraint("needs", "job_id", "on_success"),
    Index("dependencies_of", "job_id"),
)

ordering_keys = Table(
    "ordering_keys",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("job_id", UUID, nullable=False),
    PrimaryKeyConstraint("tenant", "queue", "key"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("workflow", Boolean, nullable=False),
    Column("total", Integer, nullable=False),
    Column("remaining", Integer, nullable=False),
    Column("on_failure", Text, nullable=False, server_default="continue"),
    Column("callback_url", Text),
    Column("counts", JSON),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("cancel_requested_at", Moment),
    Column("finished_at", Moment),
    Index("batches_to_cancel", "id", postgresql_where=text("cancel_requested_at IS NOT NULL")),
)

batch_ends = Table(
    "batch_ends",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("batch_id", UUID, nullable=False),
    Column("ended", Integer, nullable=False),
    Column("failed", Boolean, nullable=False),
)

unique_keys = Table(
    "unique_keys",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("until", Text, nullable=False),
    Column("job_id", UUID, nullable=False),
    PrimaryKeyConstraint("tenant", "key"),
    Index("unique_keys_of", "job_id"),
)

schedules = Table(
    "schedules",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("job", JSON, nullable=False),
    Column("on_missed", Text, nullable=False),
    Column("overlap", Text, nullable=False),
    Column("spread_over", Float, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("next_at", Moment),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("updated_at", Moment, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant", "name"),
    Index("schedules_due", "next_at", postgresql_where=text("enabled")),
)

schedule_runs = Table(
    "schedule_runs",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("scheduled_at", Moment, nullable=False),
    Column("fired_at", Moment, nullable=False, server_default=func.now()),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("job_id", UUID),
    PrimaryKeyConstraint("tenant", "name", "scheduled_at"),
    Index("schedule_runs_by_age", "scheduled_at"),
)

targets = Table(
    "targets",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("deferred_until", Moment),
    Column("updated_at", Moment, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant", "host"),
)

webhook_urls = Table(
    "webhook_urls",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("failing_since", Moment, nullable=False, server_default=func.now()),
    Column("failed_at", Moment, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant", "url"),
)

quotas = Table(
    "quotas",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("jobs", Integer, nullable=False),
    Column("per", Float, nullable=False),
    Column("used", Float, nullable=False, server_default="0"),
    Column("counted_at", Moment, nullable=False, server_default=func.now()),
)

queue_samples = Table(
    "queue_samples",
    metadata,
    Column("queue", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("depth", Integer, nullable=False, server_default="0"),
    Column("runs", Integer, nullable=False, server_default="0"),
    Column("seconds", Float, nullable=False, server_default="0"),
    PrimaryKeyConstraint("queue", "at"),
)
