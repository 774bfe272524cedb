import pytest

from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.domain_events import MessageReceived, SessionCreated
from agent_runtime.events.event_bus import EventBus, event_bus
from agent_runtime.events.session_events import MessageAddedEvent, SessionCreatedEvent
from agent_runtime.sessions.database import Database
from agent_runtime.sessions.errors import DatabaseUnavailable, InvalidSession, SessionExists, UnknownSession
from agent_runtime.sessions.manager import SessionManager
from agent_runtime.sessions.service import (
    CreateSessionCommand,
    CreateSessionHandler,
    ReceiveMessageCommand,
    ReceiveMessageHandler,
    SessionManagementService,
)
from agent_runtime.sessions.session import Session


class Shelf:
    """A repository in memory, which can be broken."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.broken = False

    async def save(self, session: Session) -> None:
        """See ``Repository.save``."""
        if self.broken:
            raise DatabaseUnavailable("broken")
        self.sessions[session.id] = session

    async def find_by_id(self, session_id: str) -> Session | None:
        """See ``Repository.find_by_id``."""
        return self.sessions.get(session_id)


async def test_session_creation() -> None:
    """As the client's guide has it: one domain event, on the shared bus, once the session is saved."""
    shelf = Shelf()
    service = SessionManagementService(shelf)
    with event_bus.capture_events() as events:
        await service.create_session("session-1")
    assert 1 == len(events)
    assert isinstance(events[0], SessionCreated)
    assert ("session-1", "session-1", "system") == (events[0].session_id, events[0].aggregate_id, events[0].created_by)
    assert ["session-1"] == list(shelf.sessions)


async def test_a_message_is_told_once_it_is_saved(bus: EventBus) -> None:
    """With its text, its length and its id."""
    shelf = Shelf()
    service = SessionManagementService(shelf, bus)
    await service.create_session("s-1")
    with bus.capture_events() as events:
        added = await service.add_message("s-1", {"role": "user", "content": "привет"})
    (event,) = events
    assert (MessageReceived, "s-1", "привет", 6, added.message_id, "user") == (
        type(event),
        event.session_id,
        event.message_content,
        event.message_length,
        event.message_id,
        event.role,
    )


async def test_nothing_is_told_that_was_not_saved(bus: EventBus) -> None:
    """Neither a session nor a message."""
    shelf = Shelf()
    service = SessionManagementService(shelf, bus)
    await service.create_session("s-1")
    shelf.broken = True
    with bus.capture_events() as events:
        with pytest.raises(DatabaseUnavailable):
            await CreateSessionHandler(service, bus).handle(CreateSessionCommand("s-2"))
        with pytest.raises(DatabaseUnavailable):
            await ReceiveMessageHandler(service, bus).handle(
                ReceiveMessageCommand("s-1", {"role": "user", "content": "hi"})
            )
        with pytest.raises(UnknownSession):
            await service.add_message("nobody", {"role": "user", "content": "hi"})
        with pytest.raises(InvalidSession):
            await service.add_message("s-1", {"role": "robot"})
    assert [] == events


async def test_both_levels_are_told_once_each(sessions: SessionManager, bus: EventBus, database: Database) -> None:
    """By the commands, over the runtime's own sessions: durable first, then the domain's word, then the technical."""
    service = SessionManagementService(sessions, bus)
    EventCorrelation.set_correlation_id("turn-1")
    with bus.capture_events() as events:
        await CreateSessionHandler(service, bus).handle(CreateSessionCommand("s-1", system_prompt="Be brief."))
        await ReceiveMessageHandler(service, bus).handle(
            ReceiveMessageCommand("s-1", {"role": "user", "content": "hello"}, "coder")
        )
    assert [SessionCreated, SessionCreatedEvent, MessageReceived, MessageAddedEvent] == [
        type(event) for event in events
    ]
    assert ({"system_prompt_length": 9}, {"role": "user", "content_length": 5, "agent_name": "coder"}) == (
        events[1].data,
        events[3].data,
    )
    assert {"turn-1"} == {event.correlation_id for event in bus.store.read(0, 100)}
    assert (["hello"], []) == ([message["content"] for message in await sessions.history("s-1")], sessions.dirty())
    assert 1 == (await SessionManager(EventBus(), database).get("s-1")).message_count


async def test_a_session_begins_once(sessions: SessionManager, bus: EventBus) -> None:
    """Whichever way it began."""
    handler = CreateSessionHandler(SessionManagementService(sessions, bus), bus)
    await sessions.create("s-1")
    with bus.capture_events() as events, pytest.raises(SessionExists):
        await handler.handle(CreateSessionCommand("s-1"))
    assert [] == events
