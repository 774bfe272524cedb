"""Tells in the words of the business what happened to agents and sessions: handlers of the application.

A domain event made here has an id computed from the event that it was made from: handling that one again, after a
crash or a retry, makes a duplicate, which the store passes over.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import NAMESPACE_OID, uuid5

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.domain_events import AgentAssigned, ConversationCompleted, DomainEvent, TaskCompleted
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventType
from agent_runtime.events.subscribers.folding import in_turn
from agent_runtime.sessions.manager import SessionManager


class AgentEventHandler:
    """``AgentAssigned`` for each switch, ``TaskCompleted`` for each run of an agent."""

    name = "agent_event_handler"

    def attach(self, bus: EventBus) -> Callable[[], None]:
        """Follow ``bus``, and publish on it; returns a function that detaches it again."""

        async def assigned(event: BaseEvent) -> None:
            if event.session_id is not None:
                agent, reason = event.data["to_agent"], event.data.get("reason") or ""
                await bus.publish(
                    AgentAssigned(
                        event_id=_made_from(event, AgentAssigned),
                        session_id=event.session_id,
                        aggregate_id=event.session_id,
                        agent_type=agent,
                        reason=reason,
                    )
                )

        async def completed(event: BaseEvent) -> None:
            if event.session_id is not None:
                await bus.publish(
                    TaskCompleted(
                        event_id=_made_from(event, TaskCompleted),
                        session_id=event.session_id,
                        aggregate_id=event.session_id,
                        agent_type=event.data["agent"],
                        success=event.data["success"],
                        result_summary="",
                    )
                )

        return in_turn(
            [
                bus.subscribe(event_type=EventType.AGENT_SWITCHED, handler=assigned, name=self.name),
                bus.subscribe(event_type=EventType.AGENT_PROCESSING_COMPLETED, handler=completed, name=self.name),
            ]
        )


class SessionEventHandler:
    """``ConversationCompleted`` for each session that ended.

    Args:
        sessions: which know how long it took, and how much was said.
    """

    name = "session_event_handler"

    def __init__(self, sessions: SessionManager) -> None:
        self._sessions = sessions

    def attach(self, bus: EventBus) -> Callable[[], None]:
        """Follow ``bus``, and publish on it; returns a function that detaches it again."""

        async def ended(event: BaseEvent) -> None:
            session = None if event.session_id is None else await self._sessions.get(event.session_id)
            if session is not None and session.ended_at is not None:
                await bus.publish(
                    ConversationCompleted(
                        event_id=_made_from(event, ConversationCompleted),
                        session_id=session.id,
                        aggregate_id=session.id,
                        total_messages=session.message_count,
                        duration_seconds=max(0.0, (session.ended_at - session.created_at).total_seconds()),
                    )
                )

        return bus.subscribe(event_type=EventType.SESSION_DELETED, handler=ended, name=self.name)


def _made_from(event: BaseEvent, kind: type[DomainEvent]) -> str:
    return str(uuid5(NAMESPACE_OID, f"{kind.__name__}:{event.event_id}"))
