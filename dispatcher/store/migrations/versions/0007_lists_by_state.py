"""Indexes from which a list of any state is read in its order"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_sessions_state_created_at_id"), "sessions", ["state", "created_at", "id"])
    op.create_index(
        op.f("ix_sessions_agent_state_created_at_id"), "sessions", ["agent", "state", "created_at", "id"]
    )
    # Their first columns serve what these served.
    op.drop_index(op.f("ix_sessions_state"), "sessions")
    op.drop_index(op.f("ix_sessions_agent_state"), "sessions")
