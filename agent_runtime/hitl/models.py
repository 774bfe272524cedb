"""The table ``approvals``: a row is an approval, and the truth about it; its events are made from it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from agent_runtime.hitl.arguments import arguments_hash
from agent_runtime.hitl.decisions import Status
from agent_runtime.hitl.errors import ArgumentsMismatch, HITLError
from agent_runtime.sessions.database import Base

_PENDING = text("status = 'pending'")
_UNANNOUNCED = text("announced <> status")


class Approval(Base):
    """A call that a person is, or was, asked about. What callers hold is a copy: changing it changes nothing.

    Attributes:
        id: a UUID; names the approval where call ids, which models use again, do not.
        call_id, session_id, agent, tool_name: the call. arguments: as the model wrote them.
        arguments_hash: of those arguments; a decision is bound to it.
        reason: why a person is asked.
        correlation_id, causation_id: the turn that asked, and the event that made it ask.
        requested_at, expires_at: a decision is taken before ``expires_at``, or not at all.
        status: a ``Status``. decided_at, decided_by: when it became final, and through whom.
        modified_arguments: what the person made of the arguments. feedback: what they had to say.
        says_required: ``tool_approval_required`` is among its events; the caller has not published it.
        announced: the status whose events are known to be in the event store; empty for none. While it is not
            ``status``, the row is in the outbox.
    """

    __tablename__ = "approvals"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'approved', 'edited', 'rejected', 'expired')", name="status"),
        Index("ix_approvals_status_expires_at", "status", "expires_at"),
        Index("ix_approvals_call_id", "call_id"),
        Index(
            "uq_approvals_pending_call",
            "session_id",
            "call_id",
            unique=True,
            sqlite_where=_PENDING,
            postgresql_where=_PENDING,
        ),
        Index("ix_approvals_unannounced", "id", sqlite_where=_UNANNOUNCED, postgresql_where=_UNANNOUNCED),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    call_id: Mapped[str]
    session_id: Mapped[str]
    agent: Mapped[str | None]
    tool_name: Mapped[str]
    arguments: Mapped[dict[str, Any]]
    arguments_hash: Mapped[str]
    reason: Mapped[str]
    correlation_id: Mapped[str | None]
    causation_id: Mapped[str | None]
    requested_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    status: Mapped[str]
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None]
    modified_arguments: Mapped[dict[str, Any] | None]
    feedback: Mapped[str | None]
    says_required: Mapped[bool]
    announced: Mapped[str]

    @property
    def timeout_seconds(self) -> float:
        """How long there was to decide."""
        return (self.expires_at - self.requested_at).total_seconds()

    @property
    def settled(self) -> bool:
        """Whether it is final, and the event store has it so."""
        return self.status != Status.PENDING and self.announced == self.status

    def granted_arguments(self) -> dict[str, Any]:
        """The arguments that the call may run with: those that were asked about, or what the person made of them.

        Raises:
            ArgumentsMismatch: the row's arguments are no longer those that were asked about.
            HITLError: nobody let it run.
        """
        if self.status == Status.EDITED and self.modified_arguments is not None:
            return self.modified_arguments
        if self.status != Status.APPROVED:
            raise HITLError(f"call {self.call_id} may not run: its approval is {self.status}")
        if arguments_hash(self.arguments) != self.arguments_hash:
            raise ArgumentsMismatch(f"the arguments of call {self.call_id} have changed since it was approved")
        return self.arguments
