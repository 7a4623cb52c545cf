"""Who serves what: a lease that is waited for over HTTP is for one tenant; and a queue that had jobs before a type took
it for its default is served as before."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE workers ADD COLUMN tenant text")
    op.execute("ALTER TABLE queues ADD COLUMN dedicated boolean")
    op.execute("UPDATE queues q SET dedicated = EXISTS (SELECT 1 FROM job_types y WHERE y.queue = q.name)")
