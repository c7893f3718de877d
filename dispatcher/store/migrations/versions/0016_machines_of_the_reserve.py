"""The agent and the revision of machines that were made for the reserve, and since when they wait"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.add_column(sa.Column("agent", sa.String(length=63), nullable=True))
        batch_op.add_column(sa.Column("revision", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("seen_at", sa.Double(), nullable=True))
        batch_op.create_index(batch_op.f("ix_machines_agent_state"), ["agent", "state"], unique=False)
