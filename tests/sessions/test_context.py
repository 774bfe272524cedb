import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.events.agent_events import AgentSwitchedEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventType
from agent_runtime.events.store.sqlite import SqliteStore
from agent_runtime.events.subscribers.agent_context_subscriber import AgentContextSubscriber
from agent_runtime.sessions.context import AgentContextManager, Switch
from agent_runtime.sessions.database import Database
from agent_runtime.sessions.errors import InvalidSession, TooManySwitches, UnknownSession
from agent_runtime.sessions.manager import SessionManager


def switched(to_agent: str, from_agent: str = "orchestrator", **more: Any) -> AgentSwitchedEvent:
    """A switch of session s-1."""
    return AgentSwitchedEvent(
        from_agent=from_agent, to_agent=to_agent, reason="because", confidence="high", session_id="s-1", **more
    )


@pytest.fixture
async def contexts(bus: EventBus, database: Database, sessions: SessionManager) -> AgentContextManager:
    """Followed by its subscriber; session s-1 exists."""
    await sessions.create("s-1")
    contexts = AgentContextManager(bus, database)
    AgentContextSubscriber(contexts).attach(bus)
    return contexts


async def test_a_session_begins_with_the_first_agent(contexts: AgentContextManager) -> None:
    """It has never been passed on, and nothing is to be saved."""
    context = await contexts.get("s-1")
    assert ("orchestrator", (), 0, []) == (
        context.current_agent,
        context.switches,
        context.switch_count,
        contexts.dirty(),
    )


async def test_a_switch_is_in_the_context_when_the_publisher_goes_on(
    contexts: AgentContextManager, bus: EventBus
) -> None:
    """And when any other handler sees the event: the orchestrator never reads the agent of before."""
    seen = []

    @bus.subscribe(event_type=EventType.AGENT_SWITCHED, priority=14)
    async def read(event: AgentSwitchedEvent) -> None:
        seen.append((await contexts.get("s-1")).current_agent)

    event = switched("coder", timestamp="2026-01-17T14:00:00.000001Z")
    await bus.publish(event, wait_for_handlers=True)
    context = await contexts.get("s-1")
    assert ("coder", ["coder"], 1) == (context.current_agent, seen, context.switch_count)
    assert (
        Switch("orchestrator", "coder", "because", "high", "2026-01-17T14:00:00.000001Z", event.event_id),
    ) == context.switches
    assert event.timestamp == context.updated_at


async def test_reading_changes_nothing(contexts: AgentContextManager, bus: EventBus) -> None:
    """A context that someone holds stays what it was; only an event makes another one."""
    before = await contexts.get("s-1")
    await bus.publish(switched("coder"), wait_for_handlers=True)
    assert ("orchestrator", "coder") == (before.current_agent, (await contexts.get("s-1")).current_agent)
    with pytest.raises(AttributeError):
        before.current_agent = "debug"


async def test_without_its_subscriber_nothing_changes(
    bus: EventBus, database: Database, sessions: SessionManager
) -> None:
    """There is no other writer, not even who asks for the switch."""
    await sessions.create("s-1")
    contexts = AgentContextManager(bus, database)
    assert "orchestrator" == (await contexts.request_switch("s-1", "coder")).current_agent


async def test_a_switch_that_is_delivered_again_counts_once(contexts: AgentContextManager, bus: EventBus) -> None:
    """By a retry, or by whoever hands it on twice."""
    event = switched("coder")
    await bus.publish(event, wait_for_handlers=True)
    await contexts.switched(event)
    await bus.publish(event, wait_for_handlers=True)
    assert 1 == (await contexts.get("s-1")).switch_count


async def test_a_requested_switch_is_published(contexts: AgentContextManager, bus: EventBus) -> None:
    """From the agent that has the session, with reason and confidence; to the same agent nothing happens."""
    with bus.capture_events() as events:
        first = await contexts.request_switch("s-1", "coder", "code", "low")
        second = await contexts.request_switch("s-1", "coder")
    assert ("coder", first) == (first.current_agent, second)
    assert [{"from_agent": "orchestrator", "to_agent": "coder", "reason": "code", "confidence": "low"}] == [
        event.data for event in events
    ]


async def test_requests_at_once_make_a_chain(contexts: AgentContextManager) -> None:
    """Each goes from where the one before went to; never from an agent to itself."""
    agents = ["coder", "debug", "ask"] * 5
    await asyncio.gather(*(contexts.request_switch("s-1", agent) for agent in agents))
    context = await contexts.get("s-1")
    path = ["orchestrator", *(switch.to_agent for switch in context.switches)]
    assert path[:-1] == [switch.from_agent for switch in context.switches]
    assert all(first != second for first, second in pairwise(path))


async def test_a_session_is_passed_on_50_times_at_most(contexts: AgentContextManager, bus: EventBus) -> None:
    """The next one is refused, and not published."""
    for number in range(50):
        await contexts.request_switch("s-1", ("coder", "debug")[number % 2])
    with bus.capture_events() as events, pytest.raises(TooManySwitches, match="50 times"):
        await contexts.request_switch("s-1", "coder")
    assert ([], 50) == (events, (await contexts.get("s-1")).switch_count)


async def test_what_is_not_there(contexts: AgentContextManager, bus: EventBus, database: Database) -> None:
    """An unknown session has no context, and a foreign switch makes none."""
    foreign = AgentSwitchedEvent(from_agent="a", to_agent="b", session_id="somebody-else's")
    await bus.publish(foreign, wait_for_handlers=True)
    assert ([], 0) == (contexts.dirty(), bus.get_stats().failed_handlers)
    for session_id in ("somebody-else's", "", "a\0", "\ud800"):
        with pytest.raises(UnknownSession):
            await contexts.get(session_id)
    with pytest.raises(InvalidSession, match="agent: must not be empty"):
        await contexts.request_switch("s-1", "")


async def test_a_saved_context_is_read_elsewhere(
    contexts: AgentContextManager, bus: EventBus, other_database: Database
) -> None:
    """Whole; and saving it once more changes nothing."""
    await contexts.request_switch("s-1", "coder", "code")
    await contexts.request_switch("s-1", "debug")
    assert ["s-1"] == contexts.dirty()
    await contexts.save_now("s-1")
    await contexts.save_now("s-1")
    assert [] == contexts.dirty()
    elsewhere = AgentContextManager(EventBus(), other_database)
    assert await contexts.get("s-1") == await elsewhere.get("s-1")


@pytest.mark.parametrize("saved", [0, 1, 3])
async def test_a_switch_that_was_stored_but_not_saved_is_not_lost(
    database: Database, tmp_path: Path, saved: int
) -> None:
    """After a crash the context goes on with what the event store has had since it was saved."""
    store = SqliteStore(tmp_path / "events.db")
    bus = EventBus(store)
    await SessionManager(bus, database).create("s-1")
    contexts = AgentContextManager(bus, database)
    AgentContextSubscriber(contexts).attach(bus)
    for number, agent in enumerate(("coder", "debug", "ask"), 1):
        await contexts.request_switch("s-1", agent)
        if number == saved:
            await contexts.save_now("s-1")
    before = await contexts.get("s-1")
    await bus.close()
    store.close()

    store = SqliteStore(tmp_path / "events.db")
    bus = EventBus(store)
    contexts = AgentContextManager(bus, database)
    AgentContextSubscriber(contexts).attach(bus)
    assert before == await contexts.get("s-1")
    assert ([] if saved == 3 else ["s-1"]) == contexts.dirty()
    assert ("coder", 4) == (
        (await contexts.request_switch("s-1", "coder")).current_agent,
        (await contexts.get("s-1")).switch_count,
    )
    await bus.close()
    store.close()


async def test_a_new_event_store_does_not_hide_new_switches(contexts: AgentContextManager, database: Database) -> None:
    """Positions begin at 1 again where events are kept in memory only."""
    for agent in ("coder", "debug", "ask"):
        await contexts.request_switch("s-1", agent)
    await contexts.save_now("s-1")
    bus = EventBus()
    again = AgentContextManager(bus, database)
    AgentContextSubscriber(again).attach(bus)
    await bus.publish(switched("coder", "ask"), wait_for_handlers=True)
    context = await again.get("s-1")
    assert ("coder", 4) == (context.current_agent, context.switch_count)


async def test_the_context_of_an_ended_session_is_saved(
    contexts: AgentContextManager, sessions: SessionManager, bus: EventBus, other_database: Database
) -> None:
    """And stays readable."""
    await contexts.request_switch("s-1", "coder")
    await sessions.delete("s-1")
    await bus.drain()
    assert [] == contexts.dirty()
    assert "coder" == (await AgentContextManager(EventBus(), other_database).get("s-1")).current_agent


async def test_memory_is_bounded_and_forgets_nothing(
    bus: EventBus, database: Database, sessions: SessionManager
) -> None:
    """Contexts that make room are read again; those that are not saved stay."""
    contexts = AgentContextManager(bus, database, cache_size=2)
    AgentContextSubscriber(contexts).attach(bus)
    for number in range(8):
        await sessions.create(f"s-{number}")
        await contexts.request_switch(f"s-{number}", f"agent-{number}")
        if number % 2:
            await contexts.save_now(f"s-{number}")
    assert ["s-0", "s-2", "s-4", "s-6"] == contexts.dirty()
    assert [f"agent-{number}" for number in range(8)] == [
        (await contexts.get(f"s-{number}")).current_agent for number in range(8)
    ]
