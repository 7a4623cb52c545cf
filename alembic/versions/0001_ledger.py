"""The ledger: every table, in the PostgreSQL schema `accepted`.

The connection's search_path is that schema (`accepted.storage.db.migrate`), so names here are not qualified.
"""

from alembic import op

revision = "0001"
down_revision = None

JOBS = """
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
    finished_at timestamptz,
    parent_id uuid,
    root_id uuid,
    depth smallint NOT NULL DEFAULT 0,
    descendants integer NOT NULL DEFAULT 0,
    retried_after integer[],
    concurrency_key text,
    ordering_key text,
    batch_id uuid,
    ref text,
    blockers integer NOT NULL DEFAULT 0,
    has_dependents boolean NOT NULL DEFAULT false,
    cancelled_by uuid,
    deleted_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX jobs_by_tenant ON jobs (tenant, id);
CREATE INDEX jobs_by_batch ON jobs (batch_id, id) WHERE batch_id IS NOT NULL;
CREATE INDEX jobs_by_root ON jobs (root_id, id) WHERE root_id IS NOT NULL;
CREATE INDEX deliveries_about ON jobs ((COALESCE(payload ->> 'job_id', payload ->> 'batch_id')), id)
    WHERE type = 'webhook.deliver';
CREATE INDEX deliveries_by_tenant ON jobs (tenant, id) WHERE type = 'webhook.deliver';

CREATE TABLE outbox (
    job_id uuid PRIMARY KEY,
    attempt integer NOT NULL,
    tenant text NOT NULL,
    queue text NOT NULL,
    priority smallint NOT NULL,
    due_at timestamptz NOT NULL,
    published boolean NOT NULL,
    expires_at timestamptz,
    on_hold boolean NOT NULL DEFAULT false,
    admitted boolean NOT NULL DEFAULT false,
    concurrency_key text,
    unserved text NOT NULL DEFAULT ''
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX outbox_due ON outbox (due_at, job_id) WHERE NOT published AND NOT on_hold;
CREATE INDEX outbox_ready ON outbox (queue, unserved, priority DESC, due_at) WHERE published;
CREATE INDEX outbox_unserved ON outbox (queue, unserved) WHERE published AND unserved <> '';
CREATE INDEX outbox_expiring ON outbox (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX outbox_on_hold ON outbox (queue, tenant, concurrency_key, priority DESC, due_at)
    WHERE on_hold AND due_at < 'infinity';
CREATE INDEX outbox_admitted ON outbox (queue, concurrency_key) WHERE admitted;

CREATE TABLE attempts (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    worker_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    outcome text,
    error json,
    cancel_requested_at timestamptz,
    traceback text,
    answer json,
    target text,
    PRIMARY KEY (job_id, attempt)
) WITH (fillfactor = 80);
CREATE INDEX attempts_open ON attempts (worker_id) WHERE finished_at IS NULL;
CREATE INDEX attempts_to_cancel ON attempts (worker_id) WHERE finished_at IS NULL AND cancel_requested_at IS NOT NULL;

CREATE TABLE steps (
    job_id uuid NOT NULL,
    name text NOT NULL,
    attempt integer NOT NULL,
    result json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, name)
);

CREATE TABLE attempt_logs (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    last bigint NOT NULL,
    first bigint NOT NULL,
    lines json NOT NULL,
    PRIMARY KEY (job_id, attempt, last)
);

CREATE TABLE dead_letters (
    job_id uuid PRIMARY KEY,
    tenant text NOT NULL,
    queue text NOT NULL,
    type text NOT NULL,
    class text NOT NULL,
    message text NOT NULL,
    group_key bytea NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    alerted_at timestamptz
);
CREATE INDEX dead_letters_by_tenant ON dead_letters (tenant, failed_at DESC, job_id);
CREATE INDEX dead_letters_by_group ON dead_letters (tenant, group_key, failed_at DESC, job_id);
CREATE INDEX dead_letters_unalerted ON dead_letters (failed_at) WHERE alerted_at IS NULL;

CREATE TABLE discarded_letters (
    job_id uuid PRIMARY KEY,
    tenant text NOT NULL
);

CREATE TABLE dead_letter_groups (
    tenant text NOT NULL,
    group_key bytea NOT NULL,
    queue text NOT NULL,
    type text NOT NULL,
    class text NOT NULL,
    letters integer NOT NULL,
    last_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, group_key)
);
CREATE INDEX dead_letter_groups_largest ON dead_letter_groups (tenant, letters DESC, last_at DESC);
CREATE INDEX dead_letter_groups_empty ON dead_letter_groups (tenant, group_key) WHERE letters = 0;

CREATE TABLE dead_letter_moves (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    group_key bytea NOT NULL,
    queue text NOT NULL,
    type text NOT NULL,
    class text NOT NULL,
    letters smallint NOT NULL,
    failed_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX dead_letter_moves_of ON dead_letter_moves (tenant);

CREATE TABLE payload_edits (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    payload_before json NOT NULL,
    edited_at timestamptz NOT NULL DEFAULT now(),
    edited_by text NOT NULL,
    PRIMARY KEY (job_id, attempt)
);
"""

SUBMISSION = """
CREATE TABLE idempotency_keys (
    tenant text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    job_id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    duplicate boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX idempotency_keys_expiring ON idempotency_keys (expires_at);

CREATE TABLE unique_keys (
    tenant text NOT NULL,
    key text NOT NULL,
    until text NOT NULL,
    job_id uuid NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX unique_keys_of ON unique_keys (job_id);

CREATE TABLE ordering_keys (
    tenant text NOT NULL,
    queue text NOT NULL,
    key text NOT NULL,
    job_id uuid NOT NULL,
    PRIMARY KEY (tenant, queue, key)
);

CREATE TABLE metadata_keys (
    key text PRIMARY KEY,
    indexed_since timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE job_metadata (
    tenant text NOT NULL,
    pair bytea NOT NULL,
    job_id uuid NOT NULL,
    PRIMARY KEY (tenant, pair, job_id)
);

CREATE TABLE quotas (
    tenant text PRIMARY KEY,
    jobs integer NOT NULL,
    per double precision NOT NULL,
    used double precision NOT NULL DEFAULT 0,
    counted_at timestamptz NOT NULL DEFAULT now()
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

CREATE TABLE sessions (
    hash bytea PRIMARY KEY,
    key_id uuid NOT NULL,
    expires_at timestamptz NOT NULL
);
"""

FLOW = """
CREATE TABLE dependencies (
    needs uuid NOT NULL,
    job_id uuid NOT NULL,
    on_success boolean NOT NULL,
    broken boolean NOT NULL DEFAULT false,
    PRIMARY KEY (needs, job_id, on_success)
);
CREATE INDEX dependencies_of ON dependencies (job_id);

CREATE TABLE unfinished_ends (
    job_id uuid PRIMARY KEY,
    batch_id uuid NOT NULL,
    after uuid
);
CREATE INDEX unfinished_ends_of ON unfinished_ends (batch_id);

CREATE TABLE batches (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    workflow boolean NOT NULL,
    total integer NOT NULL,
    counts json NOT NULL DEFAULT '{}',
    on_failure text NOT NULL DEFAULT 'continue',
    callback_url text,
    created_at timestamptz NOT NULL DEFAULT now(),
    cancel_requested_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX batches_to_cancel ON batches (id) WHERE cancel_requested_at IS NOT NULL;

CREATE TABLE batch_moves (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id uuid NOT NULL,
    from_status text NOT NULL,
    to_status text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX batch_moves_of ON batch_moves (batch_id);

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
"""

QUEUES = """
CREATE TABLE queues (
    name text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    limited boolean NOT NULL DEFAULT false,
    limited_at timestamptz,
    paused boolean NOT NULL DEFAULT false,
    max_running integer,
    rate_jobs integer,
    rate_per double precision,
    max_running_per_key integer,
    max_depth integer,
    last_start timestamptz,
    last_tenant text,
    turn_taken integer NOT NULL DEFAULT 0,
    dedicated boolean,
    owner text
);
CREATE INDEX queues_limited ON queues (name) WHERE limited;

CREATE TABLE queue_tenants (
    queue text NOT NULL,
    tenant text NOT NULL,
    last_key text,
    PRIMARY KEY (queue, tenant)
);

CREATE TABLE tenant_shares (
    tenant text PRIMARY KEY,
    weight integer NOT NULL,
    max_running integer
);

CREATE TABLE queue_samples (
    queue text NOT NULL,
    at timestamptz NOT NULL,
    depth integer NOT NULL DEFAULT 0,
    runs integer NOT NULL DEFAULT 0,
    seconds double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, at)
);

CREATE TABLE queue_depths (
    queue text NOT NULL,
    tenant text NOT NULL,
    status text NOT NULL,
    jobs integer NOT NULL,
    due integer NOT NULL,
    ready_at timestamptz,
    counted_at timestamptz NOT NULL,
    PRIMARY KEY (queue, tenant, status, counted_at)
);

CREATE TABLE job_types (
    tenant text NOT NULL DEFAULT '',
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    queue text NOT NULL,
    max_attempts integer NOT NULL,
    schedule double precision[] NOT NULL,
    jitter double precision NOT NULL,
    timeout double precision,
    payload_schema json NOT NULL,
    internal boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now(),
    not_found text NOT NULL DEFAULT 'fail',
    external boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant, name)
);

CREATE TABLE workers (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    slots integer NOT NULL DEFAULT 0,
    queues text[],
    types text[],
    ends_at timestamptz,
    tenant text,
    blocked text,
    process uuid
);

CREATE TABLE periodic_locks (
    name text PRIMARY KEY,
    taken_at timestamptz NOT NULL
);
"""

WEBHOOKS = """
CREATE TABLE webhook_secrets (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    secret text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);
CREATE UNIQUE INDEX webhook_secrets_current ON webhook_secrets (tenant) WHERE expires_at IS NULL;

CREATE TABLE webhook_urls (
    tenant text NOT NULL,
    url text NOT NULL,
    failing_since timestamptz NOT NULL DEFAULT now(),
    failed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, url)
);

CREATE TABLE targets (
    tenant text NOT NULL,
    host text NOT NULL,
    failures integer NOT NULL,
    reason text NOT NULL,
    deferred_until timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, host)
);

CREATE TABLE receivers (
    key text PRIMARY KEY,
    seconds double precision NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
"""

_CLASSES = (
    *("transient", "rate_limited", "invalid", "auth", "not_found", "timeout"),
    *("crashed", "expired", "cancelled"),
)

_COUNTED = ", ".join(
    f"{name} integer NOT NULL DEFAULT 0"
    for name in (
        *("accepted", "started", "succeeded", "dead_letters", *(f"failed_{kind}" for kind in _CLASSES)),
        *(f"{time}_{bucket}" for time in ("wait", "run") for bucket in range(25)),
    )
)

MONITORING = f"""
CREATE TABLE statistic_series (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    queue text NOT NULL,
    type text NOT NULL,
    UNIQUE (tenant, queue, type)
);

CREATE TABLE statistics (
    series integer NOT NULL REFERENCES statistic_series,
    span integer NOT NULL,
    at timestamptz NOT NULL,
    {_COUNTED},
    depth integer,
    oldest double precision,
    PRIMARY KEY (series, span, at)
);

CREATE TABLE processes (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    part_of text,
    started_at timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    drain_requested_at timestamptz,
    queues text[] NOT NULL DEFAULT '{{}}',
    outcomes json NOT NULL DEFAULT '{{}}',
    loops json NOT NULL DEFAULT '[]'
);

CREATE TABLE audit (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    tenant text NOT NULL,
    key_id uuid,
    key_name text,
    address text,
    action text NOT NULL,
    target text,
    detail json NOT NULL
);
CREATE INDEX audit_by_tenant ON audit (tenant, id);
"""

NOTE_MOVE = """
CREATE FUNCTION note_batch_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO batch_moves (batch_id, from_status, to_status) VALUES (NEW.batch_id, OLD.status, NEW.status);
    RETURN NULL;
END
$$
"""

ON_MOVE = """
CREATE TRIGGER batch_moves AFTER UPDATE OF status ON jobs FOR EACH ROW
WHEN (NEW.batch_id IS NOT NULL AND NEW.status <> OLD.status) EXECUTE FUNCTION note_batch_move()
"""
"""Decision 0022. A job that is in no batch costs the condition."""

NOTE_LETTER = """
CREATE FUNCTION note_dead_letter() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    letter dead_letters;
BEGIN
    letter := CASE TG_OP WHEN 'INSERT' THEN NEW ELSE OLD END;
    INSERT INTO dead_letter_moves (tenant, group_key, queue, type, class, letters, failed_at)
    VALUES (letter.tenant, letter.group_key, letter.queue, letter.type, letter.class,
            CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END, letter.failed_at);
    RETURN NULL;
END
$$
"""

ON_LETTER = """
CREATE TRIGGER dead_letter_moves AFTER INSERT OR DELETE ON dead_letters FOR EACH ROW EXECUTE FUNCTION note_dead_letter()
"""
"""Decision 0024. A job that does not fail costs nothing."""


def upgrade() -> None:
    for group in (JOBS, SUBMISSION, FLOW, QUEUES, WEBHOOKS, MONITORING):
        for statement in group.split(";\n"):
            if statement.strip():
                op.execute(statement)
    op.execute(NOTE_MOVE)
    op.execute(ON_MOVE)
    op.execute(NOTE_LETTER)
    op.execute(ON_LETTER)
