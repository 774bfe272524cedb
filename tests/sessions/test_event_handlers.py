from agent_runtime.events.agent_events import AgentProcessingCompletedEvent, AgentSwitchedEvent
from agent_runtime.events.domain_events import AgentAssigned, ConversationCompleted, DomainEvent, TaskCompleted
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.session_events import SessionDeletedEvent
from agent_runtime.sessions.event_handlers import AgentEventHandler, SessionEventHandler
from agent_runtime.sessions.manager import SessionManager


async def domain_events(bus: EventBus) -> list[DomainEvent]:
    """What the store has of them, in order."""
    await bus.drain()
    return [event.domain for event in bus.store.read(0, 1000) if event.event_category == "domain"]


async def test_agents_are_told_in_the_words_of_the_business(bus: EventBus) -> None:
    """Who has the task, and how it went; as a consequence of what happened, in its turn."""
    detach = AgentEventHandler().attach(bus)
    switched = AgentSwitchedEvent(
        from_agent="orchestrator", to_agent="coder", reason="code", session_id="s-1", correlation_id="turn-1"
    )
    completed = AgentProcessingCompletedEvent(agent_type="coder", duration_ms=5.0, success=False, session_id="s-1")
    await bus.publish(switched, wait_for_handlers=True)
    await bus.publish(completed, wait_for_handlers=True)
    assigned, task = await domain_events(bus)
    assert (AgentAssigned, "s-1", "coder", "code") == (
        type(assigned),
        assigned.session_id,
        assigned.agent_type,
        assigned.reason,
    )
    assert (TaskCompleted, "s-1", "coder", False) == (type(task), task.session_id, task.agent_type, task.success)
    record = bus.store.get(assigned.event_id)
    assert ("turn-1", switched.event_id) == (record.correlation_id, record.causation_id)
    detach()
    await bus.publish(AgentProcessingCompletedEvent(agent_type="coder", duration_ms=5.0, session_id="s-1"))
    assert 2 == len(await domain_events(bus))


async def test_an_event_that_is_handled_again_makes_a_duplicate(bus: EventBus) -> None:
    """Which the store passes over."""
    for _ in range(2):
        AgentEventHandler().attach(bus)
    await bus.publish(AgentSwitchedEvent(from_agent="a", to_agent="b", session_id="s-1"), wait_for_handlers=True)
    assert 1 == len(await domain_events(bus))


async def test_a_conversation_is_complete_when_its_session_ends(sessions: SessionManager, bus: EventBus) -> None:
    """With what was said in it, and how long it took; of foreign sessions nothing is known."""
    SessionEventHandler(sessions).attach(bus)
    await sessions.create("s-1")
    for text in ("a", "b"):
        await sessions.add_message("s-1", {"role": "user", "content": text})
    await sessions.delete("s-1")
    await bus.publish(SessionDeletedEvent(session_id="somebody-else's"))
    (event,) = await domain_events(bus)
    info = await sessions.get("s-1")
    assert (ConversationCompleted, "s-1", 2, (info.ended_at - info.created_at).total_seconds()) == (
        type(event),
        event.session_id,
        event.total_messages,
        event.duration_seconds,
    )
