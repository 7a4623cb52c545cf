"""Webhook deliveries: what each attempt was answered, and how a delivery is found by what it tells of.

Both indexes hold rows of deliveries only, by columns that no delivery ever changes: other jobs cost nothing in them,
and status changes stay heap-only.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = """
ALTER TABLE attempts ADD COLUMN answer json;
CREATE INDEX deliveries_about ON jobs ((COALESCE(payload ->> 'job_id', payload ->> 'batch_id')), id)
    WHERE type = 'webhook.deliver';
CREATE INDEX deliveries_by_tenant ON jobs (tenant, id) WHERE type = 'webhook.deliver';
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
