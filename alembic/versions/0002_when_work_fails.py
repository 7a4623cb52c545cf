"""When work fails: dead letters, cancelling, tracebacks, remembered steps and children."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = """
ALTER TABLE jobs
    ADD COLUMN parent_id uuid,
    ADD COLUMN root_id uuid,
    ADD COLUMN depth smallint NOT NULL DEFAULT 0,
    ADD COLUMN descendants integer NOT NULL DEFAULT 0,
    ADD COLUMN retried_after integer[];

ALTER TABLE attempts
    ADD COLUMN cancel_requested_at timestamptz,
    ADD COLUMN traceback text;

ALTER TABLE job_types ADD COLUMN not_found text NOT NULL DEFAULT 'fail';

CREATE TABLE steps (
    job_id uuid NOT NULL,
    name text NOT NULL,
    attempt integer NOT NULL,
    result json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, name)
);

CREATE TABLE dead_letters (
    job_id uuid PRIMARY KEY,
    tenant text NOT NULL,
    queue text NOT NULL,
    type text NOT NULL,
    class text NOT NULL,
    message text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    alerted_at timestamptz
);
CREATE INDEX dead_letters_by_tenant ON dead_letters (tenant, failed_at DESC, job_id);
CREATE INDEX dead_letters_unalerted ON dead_letters (failed_at) WHERE alerted_at IS NULL;

CREATE TABLE payload_edits (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    payload_before json NOT NULL,
    edited_at timestamptz NOT NULL DEFAULT now(),
    edited_by text NOT NULL,
    PRIMARY KEY (job_id, attempt)
);

CREATE TABLE periodic_locks (
    name text PRIMARY KEY,
    taken_at timestamptz NOT NULL
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
