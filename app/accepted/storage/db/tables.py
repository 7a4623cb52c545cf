"""The tables of the ledger, for queries that are built rather than written. Alembic makes them; a test compares.

The hot path of a job touches `jobs`, `outbox` and `attempts`. `jobs` has no index on anything that changes, so
every status change is a heap-only (HOT) update; whatever has to be found by state is found through the two small
tables: a waiting job has a row in `outbox`, a running one an unfinished row in `attempts` (which is its lease).
(`payload`, by which deliveries are found, changes only by an edited replay, which none of theirs ever does.)
There are no foreign keys: each would be a look-up per row on the hot path, for rows that are only ever written by
the statement that writes their job, and deleted by the one that deletes it.
"""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, UUID

metadata = MetaData()

Moment = DateTime(timezone=True)

jobs = Table(
    "jobs",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("crashes", SmallInteger, nullable=False, server_default="0"),
    Column("retry", JSON),
    Column("timeout", Float),
    Column("payload", JSON, nullable=False),
    Column("result", JSON),
    Column("error", JSON),
    Column("progress", JSON),
    Column("tags", ARRAY(Text), nullable=False, server_default="{}"),
    Column("metadata", JSON, nullable=False, server_default="{}"),
    Column("callback_url", Text),
    Column("callback_events", ARRAY(Text)),
    Column("traceparent", Text),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("run_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("parent_id", UUID),
    Column("root_id", UUID),
    Column("depth", SmallInteger, nullable=False, server_default="0"),
    Column("descendants", Integer, nullable=False, server_default="0"),
    Column("retried_after", ARRAY(Integer)),
    Column("concurrency_key", Text),
    Column("ordering_key", Text),
    Column("batch_id", UUID),
    Column("ref", Text),
    Column("blockers", Integer, nullable=False, server_default="0"),
    Column("has_dependents", Boolean, nullable=False, server_default="false"),
    Column("cancelled_by", UUID),
    CheckConstraint(
        "status IN ('scheduled', 'blocked', 'queued', 'running', 'retrying', "
        "'succeeded', 'failed', 'cancelled', 'expired')",
        name="jobs_status_check",
    ),
    Index("jobs_by_tenant", "tenant", "id"),
    Index("jobs_by_batch", "batch_id", "id", postgresql_where=text("batch_id IS NOT NULL")),
    Index(
        "deliveries_about",
        text("COALESCE(payload ->> 'job_id', payload ->> 'batch_id')"),
        "id",
        postgresql_where=text("type = 'webhook.deliver'"),
    ),
    Index("deliveries_by_tenant", "tenant", "id", postgresql_where=text("type = 'webhook.deliver'")),
    postgresql_with={"fillfactor": "70"},
)

outbox = Table(
    "outbox",
    metadata,
    Column("job_id", UUID, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("queue", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("due_at", Moment, nullable=False),
    Column("published", Boolean, nullable=False),
    Column("expires_at", Moment),
    Column("on_hold", Boolean, nullable=False, server_default="false"),
    Column("admitted", Boolean, nullable=False, server_default="false"),
    Column("concurrency_key", Text),
    Index("outbox_due", "due_at", postgresql_where=text("NOT published AND NOT on_hold")),
    Index(
        "outbox_on_hold",
        "queue",
        "concurrency_key",
        text("priority DESC"),
        "due_at",
        postgresql_where=text("on_hold AND due_at < 'infinity'"),
    ),
    Index("outbox_admitted", "queue", "concurrency_key", postgresql_where=text("admitted")),
    Index("outbox_ready", "queue", text("priority DESC"), "due_at", postgresql_where=text("published")),
    Index("outbox_expiring", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_cost_delay": "0"},
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", UUID, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker_id", UUID, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("outcome", Text),
    Column("error", JSON),
    Column("cancel_requested_at", Moment),
    Column("traceback", Text),
    Column("answer", JSON),
    Column("target", Text),
    PrimaryKeyConstraint("job_id", "attempt"),
    Index("attempts_open", "worker_id", postgresql_where=text("finished_at IS NULL")),
    postgresql_with={"fillfactor": "80"},
)

steps = Table(
    "steps",
    metadata,
    Column("job_id", UUID, nullable=False),
    Column("name", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("result", JSON, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("job_id", "name"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("job_id", UUID, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("class", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("failed_at", Moment, nullable=False, server_default=func.now()),
    Column("alerted_at", Moment),
    Index("dead_letters_by_tenant", "tenant", text("failed_at DESC"), "job_id"),
    Index("dead_letters_unalerted", "failed_at", postgresql_where=text("alerted_at IS NULL")),
)

payload_edits = Table(
    "payload_edits",
    metadata,
    Column("job_id", UUID, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("payload_before", JSON, nullable=False),
    Column("edited_at", Moment, nullable=False, server_default=func.now()),
    Column("edited_by", Text, nullable=False),
    PrimaryKeyConstraint("job_id", "attempt"),
)

periodic_locks = Table(
    "periodic_locks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("taken_at", Moment, nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("job_id", UUID, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("duplicate", Boolean, nullable=False, server_default="false"),
    PrimaryKeyConstraint("tenant", "key"),
    Index("idempotency_keys_expiring", "expires_at"),
)

queues = Table(
    "queues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("limited", Boolean, nullable=False, server_default="false"),
    Column("paused", Boolean, nullable=False, server_default="false"),
    Column("max_running", Integer),
    Column("rate_jobs", Integer),
    Column("rate_per", Float),
    Column("max_running_per_key", Integer),
    Column("max_depth", Integer),
    Column("next_start", Moment),
    Column("last_key", Text),
    Column("dedicated", Boolean),
    Index("queues_limited", "name", postgresql_where=text("limited")),
)

job_types = Table(
    "job_types",
    metadata,
    Column("name", Text, primary_key=True),
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
