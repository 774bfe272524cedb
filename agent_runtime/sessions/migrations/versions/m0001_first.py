"""Sessions, their messages, their agents' contexts, and approvals."""

import sqlalchemy as sa
from alembic import op

from agent_runtime.sessions.database import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("system_prompt", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("message_count", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("last_activity_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime()),
        sa.Column("end_reason", sa.String()),
    )
    op.create_index("ix_sessions_ended_at_last_activity_at", "sessions", ["ended_at", "last_activity_at"])
    op.create_table(
        "messages",
        sa.Column("session_id", sa.String(), sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("message_id", sa.String(), nullable=False, unique=True),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("agent", sa.String()),
        sa.Column("message", sa.JSON(), nullable=False),
        sa.Column("correlation_id", sa.String()),
        sa.Column("causation_id", sa.String()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "agent_contexts",
        sa.Column("session_id", sa.String(), primary_key=True),
        sa.Column("current_agent", sa.String(), nullable=False),
        sa.Column("switches", sa.JSON(), nullable=False),
        sa.Column("switch_count", sa.Integer(), nullable=False),
        sa.Column("last_event_id", sa.String()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "approvals",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("agent", sa.String()),
        sa.Column("tool_name", sa.String(), nullable=False),
        sa.Column("arguments", sa.JSON(), nullable=False),
        sa.Column("arguments_hash", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("correlation_id", sa.String()),
        sa.Column("causation_id", sa.String()),
        sa.Column("requested_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("decided_at", UtcDateTime()),
        sa.Column("decided_by", sa.String()),
        sa.Column("modified_arguments", sa.JSON()),
        sa.Column("feedback", sa.String()),
        sa.Column("says_required", sa.Boolean(), nullable=False),
        sa.Column("announced", sa.String(), nullable=False),
        sa.CheckConstraint("status IN ('pending', 'approved', 'edited', 'rejected', 'expired')", name="status"),
    )
    op.create_index("ix_approvals_status_expires_at", "approvals", ["status", "expires_at"])
    op.create_index("ix_approvals_call_id", "approvals", ["call_id"])
    pending = sa.text("status = 'pending'")
    # One call waits for one decision at a time.
    op.create_index(
        "uq_approvals_pending_call",
        "approvals",
        ["session_id", "call_id"],
        unique=True,
        sqlite_where=pending,
        postgresql_where=pending,
    )
    unannounced = sa.text("announced <> status")
    op.create_index(
        "ix_approvals_unannounced", "approvals", ["id"], sqlite_where=unannounced, postgresql_where=unannounced
    )


def downgrade() -> None:
    """Back to nothing."""
    for table in ("approvals", "agent_contexts", "messages", "sessions"):
        op.drop_table(table)
