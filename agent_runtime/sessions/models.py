"""The tables of sessions: what the migrations make, as classes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from agent_runtime.sessions.database import Base


class SessionRow(Base):
    """A session. It stays when it has ended."""

    __tablename__ = "sessions"
    __table_args__ = (Index(None, "ended_at", "last_activity_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    system_prompt: Mapped[str]
    created_by: Mapped[str]
    details: Mapped[dict[str, Any]]
    message_count: Mapped[int]
    created_at: Mapped[datetime]
    last_activity_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None]


class MessageRow(Base):
    """A message of a session, in the OpenAI chat format, at its place 1, 2, 3 …"""

    __tablename__ = "messages"

    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    message_id: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    agent: Mapped[str | None]
    message: Mapped[dict[str, Any]]
    correlation_id: Mapped[str | None]
    causation_id: Mapped[str | None]
    created_at: Mapped[datetime]


class AgentContextRow(Base):
    """Which agent has a session, and how it came to that."""

    __tablename__ = "agent_contexts"

    session_id: Mapped[str] = mapped_column(primary_key=True)
    current_agent: Mapped[str]
    switches: Mapped[list[dict[str, Any]]]
    switch_count: Mapped[int]
    last_event_id: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
