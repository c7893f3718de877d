"""The next deadline of each session; where none is written yet, the reaper looks at it every time"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("due_at", sa.Double(), nullable=True))
