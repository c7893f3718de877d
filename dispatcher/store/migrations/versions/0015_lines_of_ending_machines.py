"""Until when a session that is over keeps its line, because its machine is ending

Those that are over by now have given theirs back.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("line_until", sa.Double(), nullable=True))
        batch_op.create_index(batch_op.f("ix_sessions_line_until"), ["line_until"], unique=False)
