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

CREATE TABLE submitters (
    role text PRIMARY KEY,
    tenant text NOT NULL,
    max_payload_bytes integer NOT NULL DEFAULT 262144
);

CREATE TABLE transactional_submissions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    queue text NOT NULL,
    type text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

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
CREATE INDEX batches_of_tenant ON batches (tenant, id);
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

NEW_JOB_ID = """
CREATE FUNCTION new_job_id(at timestamptz) RETURNS uuid LANGUAGE sql AS $$
    SELECT CAST(
        lpad(to_hex(us / 1000), 12, '0') || '7' || lpad(to_hex((us % 1000) * 4096 / 1000), 3, '0')
        || substr(replace(CAST(gen_random_uuid() AS text), '-', ''), 17) AS uuid
    ) FROM (SELECT CAST(EXTRACT(epoch FROM at) * 1000000 AS bigint) AS us) AS since_1970
$$
"""
"""A UUIDv7, with the microseconds of `at` in its next 12 bits (RFC 9562, section 6.2, method 3)."""

IS_NAME = r"""
CREATE FUNCTION is_name(value text, longest integer) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$
    SELECT char_length(value) BETWEEN 1 AND longest
       AND value !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
$$
"""
"""As `accepted.domain.json_text.is_printable`."""

SUBMIT_V1 = r"""
CREATE FUNCTION submit_v1(job_type text, payload jsonb, options jsonb) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = accepted, pg_temp AS $$
#variable_conflict use_column
DECLARE
    moment CONSTANT timestamptz := clock_timestamp();
    job CONSTANT uuid := new_job_id(moment);
    body CONSTANT text := CAST(payload AS text);
    caller CONSTANT text := COALESCE(NULLIF(current_setting('role'), 'none'), session_user);
    submitter submitters;
    known job_types;
    asked record;
    named queues;
    due timestamptz;
    held boolean;
    wrong text;
BEGIN
    SELECT * INTO submitter FROM submitters WHERE role = caller;
    IF NOT FOUND AND caller = current_user THEN
        submitter := ROW(caller, 'default', 262144);
    ELSIF NOT FOUND THEN
        RAISE EXCEPTION 'role % submits for no tenant', caller USING ERRCODE = 'insufficient_privilege',
            HINT = 'The owner of the schema runs: INSERT INTO accepted.submitters (role, tenant) VALUES (…).';
    END IF;

    SELECT * INTO known FROM job_types
    WHERE name = job_type AND tenant IN (submitter.tenant, '') ORDER BY tenant DESC LIMIT 1;
    SELECT * INTO asked FROM jsonb_to_record(options) AS given(
        queue text, priority integer, run_at timestamptz, delay float8, expires_at timestamptz, timeout float8,
        max_attempts integer, tags text[], metadata jsonb, callback_url text, callback_events text[],
        concurrency_key text, idempotency_key text, ordering_key text, "unique" jsonb
    );
    asked.queue := COALESCE(asked.queue, known.queue);
    asked.metadata := COALESCE(asked.metadata, '{}');
    wrong := CASE
        WHEN known.name IS NULL OR known.internal THEN 'type: no worker has registered this type'
        WHEN jsonb_typeof(payload) IS DISTINCT FROM 'object' THEN 'payload: must be a JSON object'
        WHEN jsonb_path_exists(payload, 'strict $.**{64 to last}') THEN 'payload: nests deeper than 64'
        WHEN body ~ '\d{19}' AND jsonb_path_exists(payload,
            'strict $.** ? (@.type() == "number" && (@ > 9223372036854775807 || @ < -9223372036854775808))'
        ) THEN 'payload: has a number beyond 64 bits'
        WHEN asked.queue !~ '^[a-z0-9][a-z0-9._-]{0,63}$' THEN 'queue: is no valid name'
        WHEN asked.queue = 'webhooks' THEN 'queue: webhooks is the queue of webhook deliveries alone'
        WHEN asked.priority NOT BETWEEN 0 AND 9 THEN 'priority: must be from 0 to 9'
        WHEN asked.run_at IS NOT NULL AND asked.delay IS NOT NULL THEN 'delay: give run_at or delay, not both'
        WHEN asked.run_at > moment + interval '366 days' THEN 'run_at: must be at most 366 days ahead'
        WHEN asked.delay NOT BETWEEN 0 AND 31622400 THEN 'delay: must be from 0 to 31622400 seconds'
        WHEN asked.expires_at NOT BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'
            THEN 'expires_at: must be a time in the years 1 to 9999'
        WHEN NOT (asked.timeout > 0 AND asked.timeout <= 604800) THEN 'timeout: must be up to 604800 seconds'
        WHEN asked.max_attempts NOT BETWEEN 1 AND 100 THEN 'max_attempts: must be from 1 to 100'
        WHEN cardinality(asked.tags) > 20 THEN 'tags: must be at most 20'
        WHEN EXISTS (SELECT FROM unnest(asked.tags) AS t(tag) WHERE is_name(tag, 64) IS NOT TRUE)
            THEN 'tags: each has 1 to 64 printable characters'
        WHEN jsonb_typeof(asked.metadata) <> 'object' THEN 'metadata: must be a JSON object'
        WHEN EXISTS (
            SELECT FROM jsonb_each(asked.metadata) AS m
            WHERE NOT is_name(m.key, 64) OR jsonb_typeof(m.value) <> 'string' OR char_length(m.value #>> '{}') > 500
        ) THEN 'metadata: must map names of up to 64 characters to strings of up to 500'
        WHEN (SELECT count(*) FROM jsonb_object_keys(asked.metadata)) > 50 THEN 'metadata: must be at most 50 pairs'
        WHEN char_length(asked.callback_url) > 2048 OR asked.callback_url !~* '^https?://[^/?#@\s]+([/?#]\S*)?$'
            THEN 'callback_url: must be an http or https URL without user name'
        WHEN asked.callback_events IS NOT NULL AND asked.callback_url IS NULL
            THEN 'callback_events: needs a callback_url'
        WHEN cardinality(asked.callback_events) = 0 OR NOT asked.callback_events
            <@ ARRAY['job.succeeded', 'job.failed', 'job.cancelled', 'job.expired']
            THEN 'callback_events: must be of job.succeeded, job.failed, job.cancelled and job.expired'
        WHEN NOT is_name(asked.concurrency_key, 255) THEN 'concurrency_key: has 1 to 255 printable characters'
    END;
    IF wrong IS NULL THEN
        SELECT 'unknown option ' || key INTO wrong FROM jsonb_object_keys(options) AS given(key) WHERE key NOT IN (
            'queue', 'priority', 'run_at', 'delay', 'expires_at', 'timeout', 'max_attempts', 'tags', 'metadata',
            'callback_url', 'callback_events', 'concurrency_key', 'idempotency_key', 'ordering_key', 'unique'
        ) LIMIT 1;
    END IF;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION '%', wrong USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(body) > submitter.max_payload_bytes THEN
        RAISE EXCEPTION 'payload: is larger than % bytes', submitter.max_payload_bytes
            USING ERRCODE = 'program_limit_exceeded';
    END IF;

    wrong := CASE
        WHEN asked.idempotency_key IS NOT NULL THEN 'idempotency_key: its record'
        WHEN asked.ordering_key IS NOT NULL THEN 'ordering_key: its place in the line'
        WHEN asked."unique" IS NOT NULL THEN 'unique: its key'
        WHEN EXISTS (SELECT FROM quotas WHERE tenant = submitter.tenant) THEN 'the quota of the tenant: its row'
    END;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION '% would be locked for as long as your transaction; submit over HTTP instead', wrong
            USING ERRCODE = 'feature_not_supported';
    END IF;

    SELECT * INTO named FROM queues WHERE name = asked.queue;
    IF named.max_depth IS NOT NULL THEN
        PERFORM FROM outbox WHERE queue = asked.queue AND tenant = submitter.tenant
        OFFSET GREATEST(named.max_depth - 1, 0) LIMIT 1;
        IF FOUND OR named.max_depth = 0 THEN
            RAISE EXCEPTION 'queue % takes no more than % waiting jobs of a tenant', asked.queue, named.max_depth
                USING ERRCODE = 'configuration_limit_exceeded';
        END IF;
    END IF;

    due := GREATEST(COALESCE(asked.run_at, moment + asked.delay * interval '1 second'), moment);
    held := due = moment AND COALESCE(named.limited, false);
    INSERT INTO jobs (
        id, tenant, type, queue, status, priority, max_attempts, retry, timeout, payload, tags, metadata,
        callback_url, callback_events, created_at, run_at, expires_at, concurrency_key
    ) VALUES (
        job, submitter.tenant, known.name, asked.queue, CASE WHEN due > moment THEN 'scheduled' ELSE 'queued' END,
        COALESCE(asked.priority, 4), COALESCE(asked.max_attempts, known.max_attempts),
        CASE WHEN asked.max_attempts IS NOT NULL THEN json_build_object(
            'max_attempts', asked.max_attempts, 'schedule', known.schedule, 'jitter', known.jitter) END,
        asked.timeout, CAST(body AS json),
        ARRAY(SELECT tag FROM unnest(asked.tags) WITH ORDINALITY AS t(tag, place) GROUP BY tag ORDER BY min(place)),
        CAST(CAST(asked.metadata AS text) AS json), asked.callback_url,
        CASE WHEN asked.callback_url IS NOT NULL THEN COALESCE(asked.callback_events,
            ARRAY['job.succeeded', 'job.failed', 'job.cancelled', 'job.expired']) END,
        moment, due, asked.expires_at, asked.concurrency_key
    );
    INSERT INTO outbox (
        job_id, attempt, tenant, queue, priority, due_at, published, expires_at, on_hold, concurrency_key
    ) VALUES (
        job, 0, submitter.tenant, asked.queue, COALESCE(asked.priority, 4), due, false, asked.expires_at, held,
        asked.concurrency_key
    );
    INSERT INTO job_metadata (tenant, pair, job_id)
    SELECT submitter.tenant, substring(sha256(convert_to(m.key || '=' || m.value, 'UTF8')) FOR 16), job
    FROM jsonb_each_text(asked.metadata) AS m WHERE m.key IN (SELECT key FROM metadata_keys);
    INSERT INTO transactional_submissions (tenant, queue, type) VALUES (submitter.tenant, asked.queue, known.name);
    PERFORM pg_notify('accepted_submitted', '');
    IF held THEN
        PERFORM pg_notify('accepted_held', '');
    END IF;
    RETURN job;
END
$$
"""
"""Decision 0034. It writes what `accepted.storage.jobs.submission` writes, and locks no row that others write."""

SUBMIT = """
CREATE FUNCTION submit(
    type text, payload jsonb DEFAULT '{}', queue text DEFAULT NULL, priority integer DEFAULT NULL,
    run_at timestamptz DEFAULT NULL, delay float8 DEFAULT NULL, expires_at timestamptz DEFAULT NULL,
    timeout float8 DEFAULT NULL, max_attempts integer DEFAULT NULL, tags text[] DEFAULT NULL,
    metadata jsonb DEFAULT NULL, callback_url text DEFAULT NULL, callback_events text[] DEFAULT NULL,
    concurrency_key text DEFAULT NULL, idempotency_key text DEFAULT NULL, ordering_key text DEFAULT NULL,
    "unique" jsonb DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = accepted, pg_temp AS $$
BEGIN
    RETURN submit_v1(type, payload, jsonb_build_object(
        'queue', queue, 'priority', priority, 'run_at', run_at, 'delay', delay, 'expires_at', expires_at,
        'timeout', timeout, 'max_attempts', max_attempts, 'tags', tags, 'metadata', metadata,
        'callback_url', callback_url, 'callback_events', callback_events, 'concurrency_key', concurrency_key,
        'idempotency_key', idempotency_key, 'ordering_key', ordering_key, 'unique', "unique"
    ));
END
$$
"""

FOR_SUBMITTERS = "REVOKE EXECUTE ON FUNCTION submit, submit_v1, new_job_id, is_name FROM PUBLIC"
"""PostgreSQL lets everybody run a new function."""


def upgrade() -> None:
    for group in (JOBS, SUBMISSION, FLOW, QUEUES, WEBHOOKS, MONITORING):
        for statement in group.split(";\n"):
            if statement.strip():
                op.execute(statement)
    for statement in (NOTE_MOVE, ON_MOVE, NOTE_LETTER, ON_LETTER):
        op.execute(statement)
    for statement in (NEW_JOB_ID, IS_NAME, SUBMIT_V1, SUBMIT, FOR_SUBMITTERS):
        op.execute(statement)
