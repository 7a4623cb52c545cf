"""The tables of everything beside jobs: queues and job types, workers, batches, targets, schedules and tenants."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, UUID

from accepted.storage.db.job_tables import Moment, metadata

queues = Table(
    "queues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("limited", Boolean, nullable=False, server_default="false"),
    Column("limited_at", Moment),
    Column("paused", Boolean, nullable=False, server_default="false"),
    Column("max_running", Integer),
    Column("rate_jobs", Integer),
    Column("rate_per", Float),
    Column("max_running_per_key", Integer),
    Column("max_depth", Integer),
    Column("last_start", Moment),
    Column("last_tenant", Text),
    Column("turn_taken", Integer, nullable=False, server_default="0"),
    Column("dedicated", Boolean),
    Column("owner", Text),
    Index("queues_limited", "name", postgresql_where=text("limited")),
)

queue_tenants = Table(
    "queue_tenants",
    metadata,
    Column("queue", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("last_key", Text),
    PrimaryKeyConstraint("queue", "tenant"),
)

tenant_shares = Table(
    "tenant_shares",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("weight", Integer, nullable=False),
    Column("max_running", Integer),
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

queue_depths = Table(
    "queue_depths",
    metadata,
    Column("queue", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("jobs", Integer, nullable=False),
    Column("due", Integer, nullable=False),
    Column("ready_at", Moment),
    Column("counted_at", Moment, nullable=False),
    PrimaryKeyConstraint("queue", "tenant", "status", "counted_at"),
)

job_types = Table(
    "job_types",
    metadata,
    Column("tenant", Text, nullable=False, server_default=""),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("queue", Text, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("schedule", ARRAY(Float), nullable=False),
    Column("jitter", Float, nullable=False),
    Column("timeout", Float),
    Column("payload_schema", JSON, nullable=False),
    Column("internal", Boolean, nullable=False, server_default="false"),
    Column("updated_at", Moment, nullable=False, server_default=func.now()),
    Column("not_found", Text, nullable=False, server_default="fail"),
    Column("external", Boolean, nullable=False, server_default="false"),
    PrimaryKeyConstraint("tenant", "name"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("started_at", Moment, nullable=False, server_default=func.now()),
    Column("heartbeat_at", Moment, nullable=False, server_default=func.now()),
    Column("slots", Integer, nullable=False, server_default="0"),
    Column("queues", ARRAY(Text)),
    Column("types", ARRAY(Text)),
    Column("ends_at", Moment),
    Column("tenant", Text),
    Column("blocked", Text),
    Column("process", UUID),
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

metadata_keys = Table(
    "metadata_keys",
    metadata,
    Column("key", Text, primary_key=True),
    Column("indexed_since", Moment, nullable=False, server_default=func.now()),
)

job_metadata = Table(
    "job_metadata",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("pair", LargeBinary, nullable=False),
    Column("job_id", UUID, nullable=False),
    PrimaryKeyConstraint("tenant", "pair", "job_id"),
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

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("revoked_at", Moment),
)

sessions = Table(
    "sessions",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("key_id", UUID, nullable=False),
    Column("expires_at", Moment, nullable=False),
)

submitters = Table(
    "submitters",
    metadata,
    Column("role", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("max_payload_bytes", Integer, nullable=False, server_default="262144"),
)

transactional_submissions = Table(
    "transactional_submissions",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("type", Text, nullable=False),
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_cost_delay": "0"},
)

webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("expires_at", Moment),
    Index("webhook_secrets_current", "tenant", unique=True, postgresql_where=text("expires_at IS NULL")),
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

receivers = Table(
    "receivers",
    metadata,
    Column("key", Text, primary_key=True),
    Column("seconds", Float, nullable=False),
    Column("updated_at", Moment, nullable=False, server_default=func.now()),
)

periodic_locks = Table(
    "periodic_locks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("taken_at", Moment, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("workflow", Boolean, nullable=False),
    Column("total", Integer, nullable=False),
    Column("counts", JSON, nullable=False, server_default="{}"),
    Column("on_failure", Text, nullable=False, server_default="continue"),
    Column("callback_url", Text),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("cancel_requested_at", Moment),
    Column("finished_at", Moment),
    Index("batches_of_tenant", "tenant", "id"),
    Index("batches_to_cancel", "id", postgresql_where=text("cancel_requested_at IS NOT NULL")),
)

batch_moves = Table(
    "batch_moves",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("batch_id", UUID, nullable=False),
    Column("from_status", Text, nullable=False),
    Column("to_status", Text, nullable=False),
    Index("batch_moves_of", "batch_id"),
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_cost_delay": "0"},
)
