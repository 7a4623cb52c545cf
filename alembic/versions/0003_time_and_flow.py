"""Time and flow: dependencies, batches, gated queues, schedules, unique keys, quotas and targets (docs/waiting.md)."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = """
ALTER TABLE jobs
    ADD COLUMN concurrency_key text,
    ADD COLUMN ordering_key text,
    ADD COLUMN batch_id uuid,
    ADD COLUMN ref text,
    ADD COLUMN blockers integer NOT NULL DEFAULT 0,
    ADD COLUMN has_dependents boolean NOT NULL DEFAULT false;
DROP INDEX jobs_by_tenant;
CREATE INDEX jobs_by_tenant ON jobs (tenant, id);
CREATE INDEX jobs_by_batch ON jobs (batch_id, id) WHERE batch_id IS NOT NULL;

ALTER TABLE outbox
    ADD COLUMN held boolean NOT NULL DEFAULT false,
    ADD COLUMN admitted boolean NOT NULL DEFAULT false,
    ADD COLUMN concurrency_key text;
DROP INDEX outbox_due;
CREATE INDEX outbox_due ON outbox (due_at) WHERE NOT published AND NOT held;
CREATE INDEX outbox_held ON outbox (queue, concurrency_key, priority DESC, due_at) WHERE held AND due_at < 'infinity';
CREATE INDEX outbox_admitted ON outbox (queue, concurrency_key) WHERE admitted;

ALTER TABLE queues
    ADD COLUMN gated boolean NOT NULL DEFAULT false,
    ADD COLUMN paused boolean NOT NULL DEFAULT false,
    ADD COLUMN max_running integer,
    ADD COLUMN rate_jobs integer,
    ADD COLUMN rate_per double precision,
    ADD COLUMN max_running_per_key integer,
    ADD COLUMN max_depth integer,
    ADD COLUMN next_start timestamptz,
    ADD COLUMN turn text;
CREATE INDEX queues_gated ON queues (name) WHERE gated;

ALTER TABLE workers
    ADD COLUMN slots integer NOT NULL DEFAULT 0,
    ADD COLUMN queues text[],
    ADD COLUMN types text[],
    ADD COLUMN ends_at timestamptz;

ALTER TABLE idempotency_keys ADD COLUMN duplicate boolean NOT NULL DEFAULT false;

ALTER TABLE job_types ADD COLUMN external boolean NOT NULL DEFAULT false;

CREATE TABLE dependencies (
    needs uuid NOT NULL,
    job_id uuid NOT NULL,
    on_success boolean NOT NULL,
    broken boolean NOT NULL DEFAULT false,
    PRIMARY KEY (needs, job_id, on_success)
);
CREATE INDEX dependencies_of ON dependencies (job_id);

CREATE TABLE ordering_keys (
    tenant text NOT NULL,
    queue text NOT NULL,
    key text NOT NULL,
    job_id uuid NOT NULL,
    PRIMARY KEY (tenant, queue, key)
);

CREATE TABLE batches (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    workflow boolean NOT NULL,
    total integer NOT NULL,
    remaining integer NOT NULL,
    on_failure text NOT NULL DEFAULT 'continue',
    callback_url text,
    counts json,
    created_at timestamptz NOT NULL DEFAULT now(),
    cancel_requested_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX batches_to_cancel ON batches (id) WHERE cancel_requested_at IS NOT NULL;

CREATE TABLE batch_ends (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id uuid NOT NULL,
    ended integer NOT NULL,
    failed boolean NOT NULL
);

CREATE TABLE unique_keys (
    tenant text NOT NULL,
    key text NOT NULL,
    until text NOT NULL,
    job_id uuid NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX unique_keys_of ON unique_keys (job_id);

CREATE TABLE schedules (
    tenant text NOT NULL,
    name text NOT NULL,
    cron text NOT NULL,
    timezone text NOT NULL,
    job json NOT NULL,
    on_missed text NOT NULL,
    overlap text NOT NULL,
    spread_over double precision NOT NULL,
    enabled boolean NOT NULL,
    next_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name)
);
CREATE INDEX schedules_due ON schedules (next_at) WHERE enabled;

CREATE TABLE schedule_runs (
    tenant text NOT NULL,
    name text NOT NULL,
    scheduled_at timestamptz NOT NULL,
    fired_at timestamptz NOT NULL DEFAULT now(),
    outcome text NOT NULL,
    reason text,
    job_id uuid,
    PRIMARY KEY (tenant, name, scheduled_at)
);
CREATE INDEX schedule_runs_by_age ON schedule_runs (scheduled_at);

CREATE TABLE targets (
    tenant text NOT NULL,
    host text NOT NULL,
    failures integer NOT NULL,
    reason text NOT NULL,
    deferred_until timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, host)
);

CREATE TABLE webhook_urls (
    tenant text NOT NULL,
    url text NOT NULL,
    failing_since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, url)
);

CREATE TABLE quotas (
    tenant text PRIMARY KEY,
    jobs integer NOT NULL,
    per double precision NOT NULL,
    used double precision NOT NULL DEFAULT 0,
    counted_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE queue_samples (
    queue text NOT NULL,
    at timestamptz NOT NULL,
    depth integer NOT NULL DEFAULT 0,
    runs integer NOT NULL DEFAULT 0,
    seconds double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, at)
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
