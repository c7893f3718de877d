"""An index of what is searched among machines that are not gone

The index of their states stays for replicas of the release before, which read it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_live = sa.text("gone_at IS NULL")
    op.create_index(
        "ix_machines_live",
        "machines",
        ["id", "placement", "state", "gone_at"],
        sqlite_where=is_live,
        postgresql_where=is_live,
    )
