import asyncio
from pathlib import Path

from structlog.testing import capture_logs

from agent_runtime.events.domain_events import DomainEvent, MessageReceived, SessionCreated, SessionExpired
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.projection import ProjectionRunner
from agent_runtime.events.session_events import MessageAddedEvent
from agent_runtime.events.store.sqlite import SqliteStore
from agent_runtime.events.subscribers.domain_event_subscriber import DomainEventSubscriber


def message(text: str = "hello") -> MessageReceived:
    """A user's message."""
    return MessageReceived(session_id="s", message_content=text, message_length=len(text))


async def test_it_counts_domain_events_only_until_it_is_detached() -> None:
    """Messages received are counted once each, whatever infrastructure events say beside them."""
    bus, subscriber = EventBus(), DomainEventSubscriber()
    subscriber.attach(bus)
    detach = subscriber.attach(bus)
    for event in (SessionCreated(session_id="s"), message(), message()):
        await bus.publish(event, wait_for_handlers=True)
    await bus.publish(MessageAddedEvent(session_id="s", role="user", content_length=5), wait_for_handlers=True)
    assert subscriber.messages_received == 2
    assert subscriber.counts == {"SessionCreated": 1, "MessageReceived": 2}
    detach()
    await bus.publish(message(), wait_for_handlers=True)
    assert subscriber.messages_received == 2


def test_each_event_is_a_line_without_its_content() -> None:
    """Of a message the length is logged, never the words."""
    subscriber, event = DomainEventSubscriber(), message("my secret plan")
    with capture_logs() as lines:
        subscriber.handle(event)
    assert lines == [
        {
            "log_level": "info",
            "event": "domain_event",
            "kind": "MessageReceived",
            "occurred_at": event.occurred_at.isoformat(),
            "event_id": event.event_id,
            "aggregate_id": "s",
            "session_id": "s",
            "message_length": 14,
            "message_id": None,
            "role": "user",
        }
    ]


def test_kinds_of_others_are_counted_together() -> None:
    """A program's own domain events can't grow the table without end."""

    class OrderPlaced(DomainEvent):
        pass

    subscriber = DomainEventSubscriber()
    subscriber.handle(OrderPlaced(aggregate_id="o"))
    assert subscriber.counts == {"DomainEvent": 1}


def test_as_a_projection_it_survives_a_restart(tmp_path: Path) -> None:
    """Counts go on from the checkpoint, and stored domain events are recognised."""

    async def part(events: list[DomainEvent]) -> dict[str, int]:
        store = SqliteStore(tmp_path / "events.db")
        bus, subscriber = EventBus(store), DomainEventSubscriber()
        runner = ProjectionRunner(bus, subscriber)
        await runner.start()
        for event in events:
            await bus.publish(event)
        await bus.drain()
        await runner.stop()
        await bus.close()
        store.close()
        return subscriber.counts

    asyncio.run(part([message(), SessionExpired(session_id="s", reason="idle")]))
    assert asyncio.run(part([message()])) == {"MessageReceived": 2, "SessionExpired": 1}
