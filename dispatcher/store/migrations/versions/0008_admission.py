"""The queue, what is live and queued of each agent, and how long nobody has been there"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("idle_timeout_seconds", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("queue_seconds", sa.Double(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("admitted_at", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("idle_since", sa.Double(), nullable=True))
    op.create_table(
        "loads",
        sa.Column("agent", sa.String(length=63), nullable=False),
        sa.Column("live", sa.Integer(), nullable=False),
        sa.Column("queued", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("agent", name=op.f("pk_loads")),
    )
    # Before there was a queue, every session was admitted when it was asked for.
    op.execute("UPDATE sessions SET admitted_at = created_at")
    op.execute("UPDATE sessions SET state = 'starting' WHERE state = 'queued'")
    op.execute(
        "INSERT INTO loads (agent, live, queued) SELECT agent, count(*), 0 FROM sessions"
        " WHERE state IN ('starting', 'ready', 'active') GROUP BY agent"
    )
