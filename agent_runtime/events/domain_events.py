"""Domain events: what happened in the words of the business, beside the infrastructure events of the same bus.

On its way through the bus a domain event travels inside a ``DomainRecord``, so that store and subscribers need to
know one shape.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent_runtime.events.agent_events import AgentProcessingCompletedEvent, AgentSwitchedEvent
from agent_runtime.events.base_event import BaseEvent, as_time_us, as_uuid, fill, new_event_id
from agent_runtime.events.correlation import current
from agent_runtime.events.event_types import EventCategory
from agent_runtime.events.session_events import MessageAddedEvent, SessionCreatedEvent, SessionDeletedEvent


class DomainEvent(BaseModel):
    """Base of all domain events: immutable, and about one aggregate (the session, where nothing else is said)."""

    model_config = ConfigDict(frozen=True)

    event_id: str = Field(default_factory=new_event_id)
    occurred_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    aggregate_id: str

    @model_validator(mode="before")
    @classmethod
    def _aggregate_is_session(cls, values: Any) -> Any:
        if isinstance(values, dict) and "aggregate_id" not in values and "session_id" in values:
            return {**values, "aggregate_id": values["session_id"]}
        return values


class SessionCreated(DomainEvent):
    """A session was created."""

    session_id: str
    created_by: str = "system"


class MessageReceived(DomainEvent):
    """A user's message arrived."""

    session_id: str
    message_content: str
    message_length: int
    message_id: str | None = None
    role: str = "user"


class ConversationCompleted(DomainEvent):
    """A conversation came to its end."""

    session_id: str
    total_messages: int
    duration_seconds: float


class SessionExpired(DomainEvent):
    """A session expired."""

    session_id: str
    reason: str


class AgentAssigned(DomainEvent):
    """An agent was given the task."""

    session_id: str
    agent_type: str
    reason: str


class TaskCompleted(DomainEvent):
    """An agent finished its task."""

    session_id: str
    agent_type: str
    success: bool
    result_summary: str


class AgentSwitchRequested(DomainEvent):
    """A switch from one agent to another was asked for."""

    session_id: str
    from_agent: str
    to_agent: str
    reason: str


DOMAIN_EVENTS: dict[str, type[DomainEvent]] = {
    kind.__name__: kind
    for kind in (
        SessionCreated,
        MessageReceived,
        ConversationCompleted,
        SessionExpired,
        AgentAssigned,
        TaskCompleted,
        AgentSwitchRequested,
    )
}


class DomainRecord(BaseEvent):
    """The envelope in which a domain event is stored and delivered; its type is the domain event's class name."""

    __slots__ = ("domain",)

    domain: DomainEvent

    @classmethod
    def of(cls, domain: DomainEvent) -> DomainRecord:
        """Wrap ``domain``; correlation and cause come from the context.

        Raises:
            InvalidEvent: its values can't be stored.
        """
        data = domain.model_dump(mode="json", exclude={"event_id", "occurred_at"})
        context = current.get()
        keys = {
            "event_id": as_uuid(domain.event_id, "event_id"),
            "session_id": data.get("session_id") or domain.aggregate_id,
            "correlation_id": context.correlation_id,
            "causation_id": context.event_id,
            "data": data,
            "source": "domain",
            "version": "1.0",
        }
        record = cls.__new__(cls)
        fill(record, type(domain).__name__, EventCategory.DOMAIN, keys, as_time_us(domain.occurred_at))
        record.domain = domain
        record.check()
        return record

    def restore(self) -> None:
        """Build ``domain`` again from the stored keys."""
        kind = DOMAIN_EVENTS.get(self.event_type, DomainEvent)
        self.domain = kind(event_id=self.event_id, occurred_at=self.timestamp, **self.data)


def to_infrastructure_event(event: DomainEvent) -> BaseEvent | None:
    """The infrastructure event that says the same, or None where there is none.

    Nobody publishes it by itself: a service that publishes both levels calls this, so that nothing is counted twice.
    """
    match event:
        case SessionCreated():
            return SessionCreatedEvent(session_id=event.session_id, source=event.created_by)
        case MessageReceived():
            return MessageAddedEvent(session_id=event.session_id, role=event.role, content_length=event.message_length)
        case SessionExpired():
            return SessionDeletedEvent(session_id=event.session_id, soft_delete=True)
        case AgentSwitchRequested():
            return AgentSwitchedEvent(
                session_id=event.session_id,
                from_agent=event.from_agent,
                to_agent=event.to_agent,
                reason=event.reason,
            )
        case TaskCompleted():
            return AgentProcessingCompletedEvent(
                session_id=event.session_id, agent_type=event.agent_type, duration_ms=0.0, success=event.success
            )
    return None
