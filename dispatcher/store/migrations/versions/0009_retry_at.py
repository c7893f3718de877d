"""When another start may go better than one that the machines API refused"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("retry_at", sa.Double(), nullable=True))
