from agent_runtime.events.agent_events import AgentSwitchedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.session_events import MessageAddedEvent, SessionDeletedEvent
from agent_runtime.events.subscribers.agent_context_subscriber import AgentContextSubscriber


class Contexts:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str | None]] = []

    async def switched(self, event: BaseEvent) -> None:
        """See ``AgentContexts.switched``."""
        self.told.append((event.data["to_agent"], event.session_id))

    async def ended(self, session_id: str) -> None:
        """See ``AgentContexts.ended``."""
        self.told.append(("ended", session_id))


def events() -> list[BaseEvent]:
    """Two that concern a session's agent, and two that do not."""
    return [
        AgentSwitchedEvent(from_agent="orchestrator", to_agent="coder", session_id="s-1"),
        MessageAddedEvent(role="user", content_length=1, session_id="s-1"),
        AgentSwitchedEvent(from_agent="orchestrator", to_agent="ask"),
        SessionDeletedEvent(session_id="s-1"),
    ]


async def test_switches_and_ends_are_handed_on() -> None:
    """Of sessions; nothing else is, and nothing after it was detached."""
    contexts, bus = Contexts(), EventBus()
    detach = AgentContextSubscriber(contexts).attach(bus)
    for event in events():
        await bus.publish(event, wait_for_handlers=True)
    assert [("coder", "s-1"), ("ended", "s-1")] == contexts.told
    detach()
    await bus.publish(AgentSwitchedEvent(from_agent="coder", to_agent="ask", session_id="s-1"), wait_for_handlers=True)
    assert 2 == len(contexts.told)


async def test_it_is_the_first_to_see_a_switch() -> None:
    """Whoever subscribed earlier, at any lower place of the ladder."""
    contexts, bus = Contexts(), EventBus()
    seen: list[int] = []
    for priority in (0, 1, 5, 10):
        bus.subscribe(handler=lambda _: seen.append(len(contexts.told)), priority=priority)
    subscriber = AgentContextSubscriber(contexts)
    subscriber.attach(bus)
    subscriber.attach(bus)
    await bus.publish(
        AgentSwitchedEvent(from_agent="orchestrator", to_agent="coder", session_id="s-1"), wait_for_handlers=True
    )
    assert [1, 1, 1, 1] == seen


async def test_without_contexts_it_does_nothing() -> None:
    """It can be made and attached like every subscriber."""
    bus = EventBus()
    AgentContextSubscriber().attach(bus)
    for event in events():
        await bus.publish(event, wait_for_handlers=True)
    assert 0 == bus.get_stats().failed_handlers
