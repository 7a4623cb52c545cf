"""The ledger: jobs and the small tables through which they are found."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = """
CREATE TABLE jobs (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    type text NOT NULL,
    queue text NOT NULL,
    status text NOT NULL CHECK (status IN ('scheduled', 'blocked', 'queued', 'running', 'retrying',
                                           'succeeded', 'failed', 'cancelled', 'expired')),
    priority smallint NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL,
    crashes smallint NOT NULL DEFAULT 0,
    retry json,
    timeout double precision,
    payload json NOT NULL,
    result json,
    error json,
    progress json,
    tags text[] NOT NULL DEFAULT '{}',
    metadata json NOT NULL DEFAULT '{}',
    callback_url text,
    callback_events text[],
    traceparent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    run_at timestamptz NOT NULL,
    expires_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX jobs_by_tenant ON jobs (tenant, id DESC);

CREATE TABLE outbox (
    job_id uuid PRIMARY KEY,
    attempt integer NOT NULL,
    queue text NOT NULL,
    priority smallint NOT NULL,
    due_at timestamptz NOT NULL,
    published boolean NOT NULL,
    expires_at timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX outbox_due ON outbox (due_at) WHERE NOT published;
CREATE INDEX outbox_ready ON outbox (queue, priority DESC, due_at) WHERE published;
CREATE INDEX outbox_expiring ON outbox (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE attempts (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    worker_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    outcome text,
    error json,
    PRIMARY KEY (job_id, attempt)
) WITH (fillfactor = 80);
CREATE INDEX attempts_open ON attempts (worker_id) WHERE finished_at IS NULL;

CREATE TABLE idempotency_keys (
    tenant text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    job_id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX idempotency_keys_expiring ON idempotency_keys (expires_at);

CREATE TABLE queues (
    name text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE job_types (
    name text PRIMARY KEY,
    description text NOT NULL DEFAULT '',
    queue text NOT NULL,
    max_attempts integer NOT NULL,
    schedule double precision[] NOT NULL,
    jitter double precision NOT NULL,
    timeout double precision,
    payload_schema json NOT NULL,
    internal boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE workers (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    hash bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

CREATE TABLE webhook_secrets (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    secret text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);
CREATE UNIQUE INDEX webhook_secrets_current ON webhook_secrets (tenant) WHERE expires_at IS NULL;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
