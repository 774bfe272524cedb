"""Keeps the agents' contexts up with the switches: the only writer that they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventType
from agent_runtime.events.subscribers.folding import in_turn


class AgentContexts(Protocol):
    """Where contexts are kept."""

    async def switched(self, event: BaseEvent) -> None:
        """Take over an ``agent_switched`` event; one that was taken over before changes nothing."""

    async def ended(self, session_id: str) -> None:
        """A session has ended."""


class AgentContextSubscriber:
    """Hands every switch to the contexts, before any other subscriber sees it.

    Who publishes a switch with ``wait_for_handlers=True`` reads the new agent afterwards, and never the old one.

    Args:
        contexts: where contexts are kept; without it there is nothing to keep up.
    """

    name = "agent_context_subscriber"
    priority = 15

    def __init__(self, contexts: AgentContexts | None = None) -> None:
        self._contexts = contexts

    def attach(self, bus: EventBus) -> Callable[[], None]:
        """Follow ``bus`` from now on; attaching twice counts once.

        Returns:
            A function without arguments that detaches it again.
        """
        detach = []
        for event_type in (EventType.AGENT_SWITCHED, EventType.SESSION_DELETED):
            bus.unsubscribe(self.handle, event_type=event_type)
            detach.append(
                bus.subscribe(event_type=event_type, handler=self.handle, priority=self.priority, name=self.name)
            )
        return in_turn(detach)

    async def handle(self, event: BaseEvent) -> None:
        """Take over one event; what is of no interest is passed over."""
        if self._contexts is None or event.session_id is None:
            return
        if event.event_type == EventType.AGENT_SWITCHED:
            await self._contexts.switched(event)
        elif event.event_type == EventType.SESSION_DELETED:
            await self._contexts.ended(event.session_id)
