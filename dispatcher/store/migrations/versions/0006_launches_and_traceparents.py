"""When a session's machine was asked for, and the trace that the session belongs to"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("launched_at", sa.Double(), nullable=True))
    # 2 + 32 + 16 + 2 hexadecimal digits and three hyphens: W3C Trace Context, version 00.
    op.add_column("sessions", sa.Column("traceparent", sa.String(length=55), nullable=True))
