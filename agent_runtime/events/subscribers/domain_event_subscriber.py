"""Follows the domain events: logs each, and counts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import structlog

from agent_runtime.events.domain_events import DOMAIN_EVENTS, DomainEvent, DomainRecord, MessageReceived
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.subscribers.folding import FoldingSubscriber

log = structlog.stdlib.get_logger("agent_runtime.domain")


class DomainEventSubscriber(FoldingSubscriber):
    """Writes a structlog line for each domain event, and counts by kind. Of a message only the length is logged."""

    name = "domain_event_subscriber"

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    @property
    def counts(self) -> dict[str, int]:
        """How many domain events of each kind there were, by class name."""
        return dict(self._counts)

    @property
    def messages_received(self) -> int:
        """How many messages of users arrived."""
        return self._counts.get(MessageReceived.__name__, 0)

    def attach(self, bus: EventBus) -> Callable[[], None]:
        """See ``FoldingSubscriber.attach``."""
        bus.unsubscribe(self.handle, event_type=DomainEvent)
        return bus.subscribe(event_type=DomainEvent, handler=self.handle, priority=self.priority, name=self.name)

    def handle(self, event: Any) -> None:
        """Fold one domain event, on its own or as the store keeps it; other events are passed over."""
        domain = event.domain if isinstance(event, DomainRecord) else event
        if not isinstance(domain, DomainEvent):
            return
        kind = type(domain).__name__
        kind = kind if kind in DOMAIN_EVENTS else DomainEvent.__name__
        self._counts[kind] = self._counts.get(kind, 0) + 1
        fields = domain.model_dump(mode="json", exclude={"message_content", "result_summary", "occurred_at"})
        log.info("domain_event", kind=kind, occurred_at=domain.occurred_at.isoformat(), **fields)

    def dump(self) -> bytes:
        """See ``Projection.dump``."""
        return orjson.dumps(self._counts)

    def load(self, state: bytes) -> None:
        """See ``Projection.load``."""
        self._counts = orjson.loads(state)
