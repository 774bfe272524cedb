"""Floor 1: facts, the bus that carries them, the store that keeps them. Imports nothing else of ours."""

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.domain_events import DomainEvent
from agent_runtime.events.error_handling import EventHandlerWithRetry
from agent_runtime.events.event_bus import EventBus, event_bus
from agent_runtime.events.event_types import EventCategory, EventType
from agent_runtime.events.parsing import parse_event

__all__ = [
    "BaseEvent",
    "DomainEvent",
    "EventBus",
    "EventCategory",
    "EventCorrelation",
    "EventHandlerWithRetry",
    "EventType",
    "event_bus",
    "parse_event",
]
