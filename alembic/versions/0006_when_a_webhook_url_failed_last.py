"""When a delivery to a webhook URL failed last: days in which nobody called it are no days of failure."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE webhook_urls ADD COLUMN failed_at timestamptz NOT NULL DEFAULT now()")
    op.execute("UPDATE webhook_urls SET failed_at = failing_since")
