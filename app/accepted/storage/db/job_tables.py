"""The tables of jobs and of what belongs to a job. Alembic creates them; a test compares.

A job on its way touches `jobs`, `outbox` and `attempts`. `jobs` has no index on a column that changes, so every change
of status is a heap-only (HOT) update. What has to be found by its state is found through two small tables: a waiting
job has a row in `outbox`, a running one an unfinished row in `attempts`, which is its lease. (`payload`, by which
deliveries are found, changes only in an edited replay, which deliveries never have.) There are no foreign keys: each
would cost a look-up for every row, although such rows are written and deleted together with their job.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    Identity,
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
    Column("deleted_at", Moment),
    CheckConstraint(
        "status IN ('scheduled', 'blocked', 'queued', 'running', 'retrying', "
        "'succeeded', 'failed', 'cancelled', 'expired')",
        name="jobs_status_check",
    ),
    Index("jobs_by_tenant", "tenant", "id"),
    Index("jobs_by_batch", "batch_id", "id", postgresql_where=text("batch_id IS NOT NULL")),
    Index("jobs_by_root", "root_id", "id", postgresql_where=text("root_id IS NOT NULL")),
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
    Column("tenant", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("due_at", Moment, nullable=False),
    Column("published", Boolean, nullable=False),
    Column("expires_at", Moment),
    Column("on_hold", Boolean, nullable=False, server_default="false"),
    Column("admitted", Boolean, nullable=False, server_default="false"),
    Column("concurrency_key", Text),
    Column("unserved", Text, nullable=False, server_default=""),
    Index("outbox_due", "due_at", "job_id", postgresql_where=text("NOT published AND NOT on_hold")),
    Index(
        "outbox_on_hold",
        "queue",
        "tenant",
        "concurrency_key",
        text("priority DESC"),
        "due_at",
        postgresql_where=text("on_hold AND due_at < 'infinity'"),
    ),
    Index("outbox_admitted", "queue", "concurrency_key", postgresql_where=text("admitted")),
    Index("outbox_ready", "queue", "unserved", text("priority DESC"), "due_at", postgresql_where=text("published")),
    Index("outbox_unserved", "queue", "unserved", postgresql_where=text("published AND unserved <> ''")),
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
    Index(
        "attempts_to_cancel",
        "worker_id",
        postgresql_where=text("finished_at IS NULL AND cancel_requested_at IS NOT NULL"),
    ),
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
    Column("group_key", LargeBinary, nullable=False),
    Column("failed_at", Moment, nullable=False, server_default=func.now()),
    Column("alerted_at", Moment),
    Index("dead_letters_by_tenant", "tenant", text("failed_at DESC"), "job_id"),
    Index("dead_letters_by_group", "tenant", "group_key", text("failed_at DESC"), "job_id"),
    Index("dead_letters_unalerted", "failed_at", postgresql_where=text("alerted_at IS NULL")),
)

discarded_letters = Table(
    "discarded_letters",
    metadata,
    Column("job_id", UUID, primary_key=True),
    Column("tenant", Text, nullable=False),
)

dead_letter_groups = Table(
    "dead_letter_groups",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("group_key", LargeBinary, nullable=False),
    Column("queue", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("class", Text, nullable=False),
    Column("letters", Integer, nullable=False),
    Column("last_at", Moment, nullable=False),
    PrimaryKeyConstraint("tenant", "group_key"),
    Index("dead_letter_groups_largest", "tenant", text("letters DESC"), text("last_at DESC")),
    Index("dead_letter_groups_empty", "tenant", "group_key", postgresql_where=text("letters = 0")),
)

dead_letter_moves = Table(
    "dead_letter_moves",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("group_key", LargeBinary, nullable=False),
    Column("queue", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("class", Text, nullable=False),
    Column("letters", SmallInteger, nullable=False),
    Column("failed_at", Moment, nullable=False),
    Index("dead_letter_moves_of", "tenant"),
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_cost_delay": "0"},
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

ordering_keys = Table(
    "ordering_keys",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("job_id", UUID, nullable=False),
    PrimaryKeyConstraint("tenant", "queue", "key"),
)

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

unfinished_ends = Table(
    "unfinished_ends",
    metadata,
    Column("job_id", UUID, primary_key=True),
    Column("batch_id", UUID, nullable=False),
    Column("after", UUID),
    Index("unfinished_ends_of", "batch_id"),
)
