"""Where a machine is, and until when it may be asked for"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.add_column(sa.Column("placement", sa.String(length=63), nullable=True))
        batch_op.add_column(sa.Column("create_by", sa.Double(), nullable=True))
    # Before there were placements, every machine was a process of this host, under that name.
    op.execute("UPDATE machines SET placement = provider")
