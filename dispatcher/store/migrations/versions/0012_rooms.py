"""The room of a session, and from when on it has to be deleted"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("room", sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column("room_state", sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column("room_due_at", sa.Double(), nullable=True))
        batch_op.create_index(batch_op.f("ix_sessions_room_due_at"), ["room_due_at"], unique=False)
