"""Whose jobs a worker takes: a lease that is waited for over HTTP is for one tenant, worker processes are for all."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE workers ADD COLUMN tenant text")
