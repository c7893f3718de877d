"""An index of what is searched among sessions that are not over"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_live = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_sessions_live",
        "sessions",
        ["machine_id", "started_at", "due_at", "room_state", "ended_at"],
        sqlite_where=is_live,
        postgresql_where=is_live,
    )
