"""The trace that a session belongs to"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # 2 + 32 + 16 + 2 hexadecimal digits and three hyphens: W3C Trace Context, version 00.
    op.add_column("sessions", sa.Column("traceparent", sa.String(length=55), nullable=True))
