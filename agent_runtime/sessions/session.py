"""A session as the runtime sees it: its messages, in order, and which of them the database has yet to get."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent_runtime.events.base_event import new_event_id
from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.fields import check_object, name_problem
from agent_runtime.sessions.errors import InvalidSession, SessionEnded

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a session. It is never changed.

    Attributes:
        message: as the OpenAI chat format has it: role, content, tool_calls, tool_call_id, name.
        agent: who wrote it, where an agent did.
        correlation_id, causation_id: the turn that it belongs to, and the event that caused it.
    """

    message_id: str
    message: dict[str, Any]
    agent: str | None
    correlation_id: str | None
    causation_id: str | None
    created_at: datetime

    @property
    def role(self) -> str:
        """Who speaks."""
        return str(self.message["role"])

    @property
    def content(self) -> str:
        """Its text; empty where there is none, and the texts of its parts where it has several."""
        content = self.message.get("content")
        if isinstance(content, list):
            return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        return content if isinstance(content, str) else ""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What is told about a session; times are UTC.

    Attributes:
        details: whatever the program keeps with it, as JSON.
        last_activity_at: when it was created, changed, or got its last message.
        ended_at: None while it lives. end_reason: ``deleted`` or ``expired``.
    """

    id: str
    system_prompt: str
    created_by: str
    details: dict[str, Any]
    message_count: int
    created_at: datetime
    last_activity_at: datetime
    ended_at: datetime | None
    end_reason: str | None

    @property
    def active(self) -> bool:
        """Whether it takes messages."""
        return self.ended_at is None


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, eq=False)
class Session:
    """A session that is in memory. Only who saves it afterwards changes it.

    Attributes:
        changes: details that the database has yet to get.
        saved: how many of the messages it has. stored: whether it has the session.

    Raises:
        InvalidSession: the id, the prompt or the details can't be kept.
    """

    id: str
    system_prompt: str = ""
    created_by: str = "system"
    details: dict[str, Any] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    created_at: datetime = field(default_factory=_now)
    last_activity_at: datetime = field(default_factory=_now)
    ended_at: datetime | None = None
    end_reason: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    saved: int = 0
    stored: bool = False

    def __post_init__(self) -> None:
        for where in ("id", "created_by"):
            _check_name(where, getattr(self, where))
        if "/" in self.id or self.id in (".", ".."):
            raise InvalidSession("id", "must be usable as one part of a URL's path: no slash, not . or ..")
        _check_json({"system_prompt": self.system_prompt, "details": self.details})

    @staticmethod
    def new_id() -> str:
        """An id for a session that was given none."""
        return new_event_id()

    @property
    def dirty(self) -> bool:
        """Whether there is something that the database has yet to get."""
        return not self.stored or bool(self.changes) or self.saved < len(self.messages)

    @property
    def info(self) -> SessionInfo:
        """What is told about it now."""
        return SessionInfo(
            id=self.id,
            system_prompt=self.system_prompt,
            created_by=self.created_by,
            details=dict(self.details),
            message_count=len(self.messages),
            created_at=self.created_at,
            last_activity_at=self.last_activity_at,
            ended_at=self.ended_at,
            end_reason=self.end_reason,
        )

    def add_message(self, message: dict[str, Any], agent: str | None = None) -> Message:
        """Append a message; it belongs to the turn that is current (``EventCorrelation``).

        Raises:
            InvalidSession: it is no message, or no JSON. SessionEnded: the session takes no more.
        """
        self.check_alive()
        check_message(message)
        if agent is not None:
            _check_name("agent", agent)
        added = Message(
            new_event_id(),
            message,
            agent,
            EventCorrelation.get_correlation_id(),
            EventCorrelation.get_causation_id(),
            _now(),
        )
        self.messages.append(added)
        self.last_activity_at = added.created_at
        return added

    def update(self, changes: dict[str, Any]) -> None:
        """Change some of the details; what is set to None stays, as None.

        Raises:
            InvalidSession: they are no JSON. SessionEnded: the session takes no more.
        """
        self.check_alive()
        _check_json({"details": changes})
        self.details.update(changes)
        self.changes.update(changes)
        self.last_activity_at = _now()

    def check_alive(self) -> None:
        """Make sure that the session still takes something.

        Raises:
            SessionEnded: it does not.
        """
        if self.ended_at is not None:
            raise SessionEnded(self.id, self.end_reason or "deleted")


def check_message(message: dict[str, Any]) -> None:
    """Hold a message against the OpenAI chat format, as far as everyone relies on it.

    Raises:
        InvalidSession: says where it is wrong.
    """
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise InvalidSession("message.role", f"must be one of {', '.join(ROLES)}")
    content = message.get("content")
    if not isinstance(content, str | list | None):
        raise InvalidSession("message.content", "must be text, a list of parts, or null")
    if message["role"] == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise InvalidSession("message.tool_call_id", "is required in a tool's message")
    if not isinstance(message.get("tool_calls"), list | None):
        raise InvalidSession("message.tool_calls", "must be a list")
    try:
        json.dumps(message, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidSession("message", f"can't be JSON: {error}") from None


def _check_name(where: str, value: Any) -> None:
    problem = name_problem(value) if isinstance(value, str) else f"must be a string, got {type(value).__name__}"
    if problem is not None:
        raise InvalidSession(where, problem)


def _check_json(values: dict[str, Any]) -> None:
    for name, kind in (("system_prompt", str), ("details", dict)):
        if name in values and not isinstance(values[name], kind):
            raise InvalidSession(name, f"must be {'text' if kind is str else 'an object'}")
    try:
        check_object(values, "session")
    except InvalidEvent as error:
        raise InvalidSession(error.where.removeprefix("session."), error.what) from None
