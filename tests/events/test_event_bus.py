"""The bus, row by row of the contract; how events are delivered has a file of its own."""

import asyncio
import functools
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import agent_runtime.events
from agent_runtime.events.agent_events import AgentRegisteredEvent, AgentSwitchedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.domain_events import DomainEvent, MessageReceived, SessionCreated, to_infrastructure_event
from agent_runtime.events.errors import BusClosed, InvalidEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventCategory, EventType
from agent_runtime.events.session_events import MessageAddedEvent, SessionCreatedEvent
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.tool_events import ToolExecutionStartedEvent
from tests.events.conftest import until


def switched(session_id: str = "s", **common: Any) -> AgentSwitchedEvent:
    """A switch."""
    return AgentSwitchedEvent(session_id=session_id, from_agent="a", to_agent="b", **common)


def registered() -> AgentRegisteredEvent:
    """An event of another type, of the same category."""
    return AgentRegisteredEvent(agent_type="coder")


def created() -> SessionCreatedEvent:
    """An event of another category."""
    return SessionCreatedEvent(session_id="s")


def test_b1_one_shared_default_bus() -> None:
    """``event_bus`` is an ``EventBus``, and the same one wherever it is imported from."""
    assert type(agent_runtime.events.event_bus) is EventBus
    from agent_runtime.events.event_bus import event_bus

    assert event_bus is agent_runtime.events.event_bus


async def test_b2_subscribe_with_a_handler_returns_unsubscribe(bus: EventBus) -> None:
    """The function that ``subscribe`` returns takes no argument, ends the subscription, and may be called twice."""
    seen: list[Any] = []
    unsubscribe = bus.subscribe(event_type=EventType.AGENT_SWITCHED, handler=seen.append)
    first = switched()
    await bus.publish(first, wait_for_handlers=True)
    unsubscribe()
    unsubscribe()
    await bus.publish(switched(), wait_for_handlers=True)
    assert seen == [first]


async def test_b3_subscribe_without_a_handler_is_a_decorator(bus: EventBus) -> None:
    """The decorated function is returned unchanged, and is subscribed."""

    async def handle(event: BaseEvent) -> str:
        return event.event_type

    decorated = bus.subscribe(event_type=EventType.AGENT_SWITCHED, priority=3)(handle)
    assert decorated is handle
    assert await bus.publish(switched(), wait_for_handlers=True) == ["agent_switched"]
    assert [subscription.priority for subscription in bus.subscriptions] == [3]


async def test_b4_by_category(bus: EventBus) -> None:
    """A category takes all types that belong to it, and no other."""
    seen: list[str] = []
    bus.subscribe(event_category=EventCategory.AGENT, handler=lambda event: seen.append(event.event_type))
    bus.subscribe(event_category="session", handler=lambda event: seen.append(event.event_type))
    for event in (switched(), registered(), created(), ToolExecutionStartedEvent(tool_name="t", call_id="c")):
        await bus.publish(event, wait_for_handlers=True)
    assert seen == ["agent_switched", "agent_registered", "session_created"]


async def test_b5_wildcard_and_the_type_wins(bus: EventBus) -> None:
    """Neither type nor category means everything; given both, only the type counts."""
    everything: list[str] = []
    both: list[str] = []
    bus.subscribe(handler=lambda event: everything.append(event.event_type))
    bus.subscribe(
        event_type=EventType.SESSION_CREATED,
        event_category=EventCategory.AGENT,
        handler=lambda event: both.append(event.event_type),
    )
    await bus.publish(switched(), wait_for_handlers=True)
    await bus.publish(created(), wait_for_handlers=True)
    assert (everything, both) == (["agent_switched", "session_created"], ["session_created"])


@pytest.mark.parametrize(
    "listens", [EventType.AGENT_SWITCHED, AgentSwitchedEvent, "agent_switched", "agent.switched"], ids=repr
)
async def test_b6_by_class_and_by_either_spelling(bus: EventBus, listens: Any) -> None:
    """A type may be named by its enum, its class, and its text in both spellings; unsubscribing works with each."""
    seen: list[BaseEvent] = []
    bus.subscribe(event_type=listens, handler=seen.append)
    event = switched()
    await bus.publish(event, wait_for_handlers=True)
    await bus.publish(registered(), wait_for_handlers=True)
    assert seen == [event]
    assert bus.unsubscribe(seen.append, event_type=EventType.AGENT_SWITCHED)
    assert bus.subscriptions == ()


async def test_b6_base_classes_take_whole_levels(bus: EventBus) -> None:
    """``BaseEvent`` is everything, ``DomainEvent`` is every domain event."""
    all_events: list[Any] = []
    domain: list[Any] = []
    bus.subscribe(event_type=BaseEvent, handler=all_events.append)
    bus.subscribe(event_type=DomainEvent, handler=domain.append)
    infrastructure, fact = switched(), SessionCreated(session_id="s")
    await bus.publish(infrastructure, wait_for_handlers=True)
    await bus.publish(fact, wait_for_handlers=True)
    assert (all_events, domain) == ([infrastructure, fact], [fact])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"event_type": "agent_swiched"}, InvalidEvent, "no event type 'agent_swiched'"),
        ({"event_type": int}, InvalidEvent, "int is no event class"),
        ({"event_category": "agents"}, ValueError, "agents"),
        ({"handler": "not callable"}, TypeError, "must be callable, got str"),
    ],
)
def test_b6_mistakes_are_refused_when_they_are_made(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A subscription that could never fire is an error at once, also as a decorator."""
    with pytest.raises(error, match=message):
        EventBus().subscribe(**arguments)


def test_b6_a_generator_is_no_handler() -> None:
    """Calling it would run nothing of it, so it is refused."""

    async def handle(event: Any) -> Any:
        yield event

    with pytest.raises(TypeError, match="must not be a generator"):
        EventBus().subscribe(handler=handle)


@pytest.mark.parametrize("waits", [True, False])
async def test_b7_priorities(bus: EventBus, waits: bool) -> None:
    """Higher first; ties go to type, category, everything, then to who was there first."""
    order: list[str] = []

    def handler(name: str) -> Any:
        async def handle(event: Any) -> None:
            order.append(name)

        return handle

    bus.subscribe(handler=handler("all"))
    bus.subscribe(event_category=EventCategory.AGENT, handler=handler("category"))
    bus.subscribe(event_type=EventType.AGENT_SWITCHED, handler=handler("type, first"))
    bus.subscribe(event_type=EventType.AGENT_SWITCHED, handler=handler("type, second"))
    for priority in (1, 15, 5, 10, -1):
        bus.subscribe(handler=handler(str(priority)), priority=priority)
    await bus.publish(switched(), wait_for_handlers=waits)
    assert await bus.drain()
    assert order == ["15", "10", "5", "1", "type, first", "type, second", "category", "all", "-1"]


async def test_b8_unsubscribe_removes_all_of_one_list(bus: EventBus) -> None:
    """Every registration in that one list goes, those in other lists stay; keywords in any order."""
    seen: list[Any] = []
    handle = seen.append
    for _ in range(2):
        bus.subscribe(event_type=EventType.AGENT_SWITCHED, handler=handle)
        bus.subscribe(event_category=EventCategory.AGENT, handler=handle)
        bus.subscribe(handler=handle)
    assert bus.unsubscribe(event_type="agent.switched", handler=handle)
    assert [subscription.scope for subscription in bus.subscriptions] == [1, 2, 1, 2]
    assert bus.unsubscribe(handle, event_category=EventCategory.AGENT)
    assert bus.unsubscribe(handle)
    assert not bus.unsubscribe(handle)
    assert await bus.publish(switched(), wait_for_handlers=True) is None


async def test_b9_waiting_returns_the_results_in_order(bus: EventBus) -> None:
    """Results stand in priority order, None for a handler that failed."""

    async def slow(event: Any) -> str:
        await asyncio.sleep(0.01)
        return "slow"

    def fails(event: Any) -> str:
        raise RuntimeError("broken")

    bus.subscribe(handler=fails, priority=2)
    bus.subscribe(handler=slow, priority=3)
    bus.subscribe(handler=lambda event: "plain", priority=1)
    assert await bus.publish(switched(), wait_for_handlers=True) == ["slow", None, "plain"]


async def test_b9_waited_handlers_run_one_after_another(bus: EventBus) -> None:
    """The next begins when the one before has ended, also if it waits in between."""
    steps: list[str] = []

    def handler(name: str) -> Any:
        async def handle(event: Any) -> None:
            steps.append(f"{name} begins")
            await asyncio.sleep(0.01)
            steps.append(f"{name} ends")

        return handle

    for name in "abc":
        bus.subscribe(handler=handler(name))
    await bus.publish(switched(), wait_for_handlers=True)
    assert steps == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]


async def test_b9_by_default_it_returns_before_the_handlers_have_run(bus: EventBus) -> None:
    """The publisher goes on at once; the handlers follow by themselves."""
    seen: list[Any] = []
    bus.subscribe(handler=seen.append)
    events = [switched(), switched()]
    for event in events:
        assert await bus.publish(event) is None
    assert seen == []
    await until(lambda: len(seen) == 2)
    assert seen == events


async def test_b9_none_without_handlers(bus: EventBus) -> None:
    """Nobody listens: None, and the event is kept all the same."""
    event = switched()
    assert await bus.publish(event, wait_for_handlers=True) is None
    assert bus.store.get(event.event_id) == event


async def test_b9_a_duplicate_is_not_handled_again(bus: EventBus) -> None:
    """An event with a known id changes nothing anywhere."""
    seen: list[Any] = []
    bus.subscribe(handler=seen.append)
    event = switched()
    assert await bus.publish(event, wait_for_handlers=True) == [None]
    assert await bus.publish(event, wait_for_handlers=True) is None
    await bus.publish(event)
    assert await bus.drain()
    assert (seen, bus.store.last_position(), bus.get_stats().total_published) == ([event], 1, 1)


async def test_b10_middleware_in_order_of_registration(bus: EventBus) -> None:
    """Each sees what the one before made of the event; handlers and store see the last."""
    replacement = switched("other")

    async def marks(event: BaseEvent) -> BaseEvent:
        event.data["reason"] = "marked"
        return event

    async def replaces(event: BaseEvent) -> BaseEvent:
        replacement.data["reason"] = event.data["reason"] + ", replaced"
        return replacement

    seen: list[Any] = []
    bus.add_middleware(marks)
    bus.add_middleware(replaces)
    bus.subscribe(handler=seen.append)
    await bus.publish(switched(), wait_for_handlers=True)
    assert [event.data["reason"] for event in seen] == ["marked, replaced"]
    assert bus.store.read(0, 10) == [replacement]


async def test_b10_none_cancels(bus: EventBus) -> None:
    """A cancelled event is neither stored nor delivered nor captured; it is counted."""

    async def only_sessions(event: BaseEvent) -> BaseEvent | None:
        return event if event.event_category == EventCategory.SESSION else None

    seen: list[Any] = []
    bus.add_middleware(only_sessions)
    bus.subscribe(handler=seen.append)
    event = created()
    with bus.capture_events() as captured:
        assert await bus.publish(switched(), wait_for_handlers=True) is None
        await bus.publish(event, wait_for_handlers=True)
    assert (seen, captured, bus.store.last_position()) == ([event], [event], 1)
    assert (bus.get_stats().cancelled, bus.get_stats().total_published) == (1, 1)


async def test_b10_one_that_raises_is_passed_over(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and counted, what it did to the event is undone, and the next one runs."""

    async def breaks(event: BaseEvent) -> BaseEvent:
        event.session_id = "spoilt"
        event.data["reason"] = "spoilt"
        raise RuntimeError("broken middleware")

    async def goes_on(event: BaseEvent) -> BaseEvent:
        event.data["confidence"] = "high"
        return event

    bus.add_middleware(breaks)
    bus.add_middleware(goes_on)
    bus.subscribe(handler=lambda event: (event.session_id, event.data["reason"], event.data["confidence"]))
    assert await bus.publish(switched(reason="why"), wait_for_handlers=True) == [("s", "why", "high")]
    assert bus.get_stats().middleware_errors == 1
    assert "broken middleware" in caplog.text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda event: event.data.update(reason=float("nan")),
        lambda event: event.data.update(reason=object()),
        lambda event: event.data["nested"].append(object()),
        lambda event: setattr(event, "session_id", 5),
        lambda event: setattr(event, "data", []),
    ],
)
async def test_b10_one_that_makes_the_event_unfit_is_passed_over(bus: EventBus, spoil: Any) -> None:
    """What can't be stored can't come from a middleware either: the event goes on as it was."""

    async def spoils(event: BaseEvent) -> BaseEvent:
        spoil(event)
        return event

    bus.add_middleware(spoils)
    event = BaseEvent("agent_switched", {"from_agent": "a", "to_agent": "b", "nested": [1]}, session_id="s")
    before = event.to_json()
    await bus.publish(event, wait_for_handlers=True)
    assert [event.to_json() for event in bus.store.read(0, 10)] == [before]
    assert bus.get_stats().middleware_errors == 1


async def test_b10_one_that_returns_no_event_is_passed_over(bus: EventBus) -> None:
    """A middleware that returns something else by mistake doesn't cost the event."""

    async def mistaken(event: BaseEvent) -> bool:
        return True

    bus.add_middleware(mistaken)
    await bus.publish(switched(), wait_for_handlers=True)
    assert (bus.store.last_position(), bus.get_stats().middleware_errors) == (1, 1)


async def test_b10_domain_events_pass_as_themselves(bus: EventBus) -> None:
    """A middleware gets the domain event, not its envelope, and may replace it by another one."""
    passed: list[Any] = []

    async def renames(event: Any) -> Any:
        passed.append(event)
        return event.model_copy(update={"created_by": "middleware"})

    bus.add_middleware(renames)
    bus.subscribe(event_type=SessionCreated, handler=lambda event: event.created_by)
    original = SessionCreated(session_id="s")
    assert await bus.publish(original, wait_for_handlers=True) == ["middleware"]
    assert passed == [original]


async def test_b11_a_failing_handler_harms_nobody(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """The publisher hears nothing of it, the others run, and it is logged with its name and the event's id."""
    seen: list[Any] = []

    async def fails(event: Any) -> None:
        raise RuntimeError("broken handler")

    bus.subscribe(handler=fails, priority=5, name="the failing one")
    bus.subscribe(handler=seen.append)
    event = switched()
    assert await bus.publish(event, wait_for_handlers=True) == [None, None]
    stats = bus.get_stats()
    assert (seen, stats.successful_handlers, stats.failed_handlers) == ([event], 1, 1)
    assert f"the failing one failed on event {event.event_id}: RuntimeError('broken handler')" in caplog.text


async def test_b11_a_handler_may_have_a_timeout(bus: EventBus) -> None:
    """A hanging handler fails when its time is up, and goes on with the next event."""
    seen: list[str] = []

    async def hangs_once(event: BaseEvent) -> str:
        seen.append(event.event_id)
        if len(seen) == 1:
            await asyncio.sleep(3600)
        return "done"

    bus.subscribe(handler=hangs_once, timeout=0.05)
    assert await bus.publish(switched(), wait_for_handlers=True) == [None]
    assert await bus.publish(switched(), wait_for_handlers=True) == ["done"]
    assert (bus.get_stats().successful_handlers, bus.get_stats().failed_handlers) == (1, 1)


async def test_b12_stats(bus: EventBus) -> None:
    """A snapshot that stays as it was taken; figures of ended subscriptions stay counted."""
    fresh = bus.get_stats()
    assert (fresh.total_published, fresh.last_event_time, fresh.queue_depth, fresh.dead_letters) == (0, None, 0, 0)
    moment = datetime(2025, 6, 1, 12, 30, 15, 123456, tzinfo=UTC)

    def fails(event: Any) -> None:
        raise RuntimeError

    unsubscribe = bus.subscribe(handler=fails)
    bus.subscribe(handler=lambda event: None)
    await bus.publish(switched(timestamp=moment), wait_for_handlers=True)
    unsubscribe()
    await bus.publish(switched(timestamp=moment + timedelta(seconds=1)), wait_for_handlers=True)
    stats = bus.get_stats()
    assert (stats.total_published, stats.successful_handlers, stats.failed_handlers) == (2, 2, 1)
    assert stats.last_event_time == moment + timedelta(seconds=1)
    assert (fresh.total_published, stats.cancelled, stats.queue_depth) == (0, 0, 0)


async def test_b12_queue_depth_and_dead_letters(bus: EventBus) -> None:
    """What waits for a subscriber, and what was given up, can be seen."""
    gate = asyncio.Event()

    async def waits(event: Any) -> None:
        await gate.wait()

    bus.subscribe(handler=waits)
    for _ in range(4):
        await bus.publish(switched())
    await until(lambda: bus.get_stats().queue_depth == 3)
    gate.set()
    assert await bus.drain()
    bus.dead_letter("somebody", switched(), RuntimeError("lost"), 2)
    await until(lambda: bus.get_stats().dead_letters == 1)
    assert bus.get_stats().queue_depth == 0


async def test_b13_clear(bus: EventBus) -> None:
    """Subscriptions and middleware are gone, the events and the figures stay."""
    seen: list[Any] = []

    async def cancels(event: Any) -> None:
        return None

    bus.subscribe(handler=seen.append)
    await bus.publish(switched(), wait_for_handlers=True)
    bus.add_middleware(cancels)
    await bus.clear()
    assert await bus.publish(switched(), wait_for_handlers=True) is None
    assert (len(seen), bus.subscriptions, bus.store.last_position()) == (1, (), 2)
    assert bus.get_stats().total_published == 2


async def test_b13_clear_lets_go_of_who_waits(bus: EventBus) -> None:
    """A publisher that waits for a handler which is dropped while it has the event queued does not wait for ever."""
    gate = asyncio.Event()

    async def waits(event: Any) -> str:
        await gate.wait()
        return "done"

    bus.subscribe(handler=waits)
    first = asyncio.create_task(bus.publish(switched(), wait_for_handlers=True))
    second = asyncio.create_task(bus.publish(switched(), wait_for_handlers=True))
    await until(lambda: len(bus.subscriptions[0].queue) == 1)
    await bus.clear()
    assert await asyncio.wait_for(second, 5) == [None]
    gate.set()
    assert await asyncio.wait_for(first, 5) == ["done"]


async def test_b14_subscribe_and_unsubscribe_from_any_thread(bus: EventBus) -> None:
    """Threads that come and go while events are published harm neither the bus nor a subscriber that stays."""
    seen: list[Any] = []
    stop = threading.Event()
    errors: list[BaseException] = []

    def comes_and_goes() -> None:
        try:
            while not stop.is_set():
                unsubscribe = bus.subscribe(handler=lambda event: None, event_type=EventType.AGENT_SWITCHED)
                unsubscribe()
        except BaseException as error:
            errors.append(error)

    bus.subscribe(handler=seen.append)
    threads = [threading.Thread(target=comes_and_goes) for _ in range(4)]
    for thread in threads:
        thread.start()
    events = [switched() for _ in range(300)]
    for index, event in enumerate(events):
        await bus.publish(event, wait_for_handlers=index % 2 == 0)
    stop.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert await bus.drain()
    assert (errors, seen, len(bus.subscriptions)) == ([], events, 1)


async def test_b15_a_slow_subscriber_delays_no_other(bus: EventBus) -> None:
    """Another one has all events while the slow one is at its first."""
    gate = asyncio.Event()
    slow: list[Any] = []
    fast: list[Any] = []

    async def handle_slowly(event: Any) -> None:
        await gate.wait()
        slow.append(event)

    bus.subscribe(handler=handle_slowly, priority=10)
    bus.subscribe(handler=fast.append)
    events = [switched() for _ in range(50)]
    for event in events:
        await bus.publish(event)
    await until(lambda: len(fast) == 50)
    assert slow == []
    gate.set()
    assert await bus.drain()
    assert slow == fast == events


async def test_b16_capture_events(bus: EventBus) -> None:
    """A plain ``with`` gives the event objects in publish order: of the block, of both levels, also when nested."""
    before, first, second, after = switched(), created(), SessionCreated(session_id="s"), switched()
    await bus.publish(before)
    with bus.capture_events() as outer:
        await bus.publish(first)
        with bus.capture_events() as inner:
            await bus.publish(second, wait_for_handlers=True)
    await bus.publish(after)
    assert [id(event) for event in outer] == [id(first), id(second)]
    assert inner == [second]


async def test_b17_two_levels_on_one_bus(bus: EventBus) -> None:
    """Who wants domain events gets the domain event itself, who wants infrastructure events gets those."""
    domain: list[Any] = []
    infrastructure: list[Any] = []
    bus.subscribe(event_type=MessageReceived, handler=domain.append)
    bus.subscribe(event_type=MessageAddedEvent, handler=infrastructure.append)
    fact = MessageReceived(session_id="s", message_content="hello", message_length=5)
    told = to_infrastructure_event(fact)
    assert told is not None
    for event in (fact, told):
        await bus.publish(event)
    assert await bus.drain()
    assert (domain, infrastructure) == ([fact], [told])
    assert type(domain[0]) is MessageReceived
    assert [event.event_type for event in bus.store.read(0, 10)] == ["MessageReceived", "message_added"]


async def test_b18_waiting_for_handlers_that_need_not_wait_takes_no_turn_of_the_loop() -> None:
    """Such a publish in memory is as good as calling the handlers: nothing runs in between, and there is no task."""
    bus, turns = EventBus(), []
    for _ in range(5):
        bus.subscribe(handler=lambda event: None)
    asyncio.get_running_loop().call_soon(turns.append, "turn")
    for _ in range(100):
        await bus.publish(switched(), wait_for_handlers=True)
    assert (turns, bus.get_stats().successful_handlers, len(asyncio.all_tasks())) == ([], 500, 1)


async def test_b19_the_log_shows_what_the_bus_does(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG the logger ``agent_runtime.events`` names subscriptions and events; the level may change any time."""

    def handle(event: Any) -> None: ...

    await bus.publish(switched(), wait_for_handlers=True)
    with caplog.at_level(logging.DEBUG, logger="agent_runtime.events"):
        bus.subscribe(event_type=EventType.AGENT_SWITCHED, handler=handle, priority=7)
        event = switched()
        await bus.publish(event, wait_for_handlers=True)
        bus.unsubscribe(handle, event_type=EventType.AGENT_SWITCHED)
    await bus.publish(switched(), wait_for_handlers=True)
    messages = [record.getMessage() for record in caplog.records if record.name == "agent_runtime.events"]
    name = f"{__name__}.test_b19_the_log_shows_what_the_bus_does.<locals>.handle"
    assert messages == [
        f"subscribed {name} to agent_switched, priority 7",
        f"published agent_switched {event.event_id} at position 2",
        f"unsubscribed {name} from agent_switched",
    ]


def test_b20_unserialisable_data_is_refused_when_built() -> None:
    """The error says where, so it is found where it was made, not in the store."""
    with pytest.raises(InvalidEvent, match=r"data\.when.*datetime"):
        BaseEvent("agent_switched", {"from_agent": "a", "to_agent": "b", "when": datetime.now(UTC)})


async def test_b20_what_is_no_event_is_refused(bus: EventBus) -> None:
    """Publishing something else is a mistake of the publisher, and says so."""
    with pytest.raises(TypeError, match="only events can be published, got dict"):
        await bus.publish({"event_type": "agent_switched"})  # type: ignore[arg-type]


async def test_b21_a_subscriber_joins_without_touching_a_publisher(bus: EventBus) -> None:
    """Whoever subscribes later gets what is published from then on."""
    publish = functools.partial(bus.publish, wait_for_handlers=True)
    early: list[Any] = []
    late: list[Any] = []
    bus.subscribe(handler=early.append)
    await publish(switched())
    bus.subscribe(handler=late.append)
    second = switched()
    await publish(second)
    assert (len(early), late) == (2, [second])


async def test_b22_every_kind_of_handler(bus: EventBus) -> None:
    """Async and plain functions, methods, partials, callable objects, and functions that return awaitables."""

    class Subscriber:
        def plain(self, event: Any) -> str:
            return "method"

        async def waits(self, event: Any) -> str:
            await asyncio.sleep(0)
            return "async method"

        @staticmethod
        async def static(event: Any) -> str:
            return "static method"

        @classmethod
        def of_class(cls, event: Any) -> str:
            return "class method"

    class Callable:
        def __call__(self, event: Any) -> str:
            return "object"

    class AsyncCallable:
        async def __call__(self, event: Any) -> str:
            return "async object"

    async def with_argument(text: str, event: Any) -> str:
        await asyncio.sleep(0)
        return text

    async def nested() -> str:
        await asyncio.sleep(0)
        return "awaitable"

    def future(event: Any) -> asyncio.Future[str]:
        made: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        made.set_result("future")
        return made

    subscriber = Subscriber()
    handlers = {
        "plain": lambda event: "plain",
        "method": subscriber.plain,
        "async method": subscriber.waits,
        "static method": subscriber.static,
        "class method": subscriber.of_class,
        "object": Callable(),
        "async object": AsyncCallable(),
        "partial": functools.partial(with_argument, "partial"),
        "awaitable": lambda event: nested(),
        "future": future,
        "task": lambda event: asyncio.ensure_future(with_argument("task", event)),
    }
    for handler in handlers.values():
        bus.subscribe(handler=handler)
    for _ in range(2):
        assert await bus.publish(switched(), wait_for_handlers=True) == list(handlers)
    for _ in range(2):
        await bus.publish(switched())
    assert await bus.drain()
    assert bus.get_stats().successful_handlers == 4 * len(handlers)


async def test_b22_handlers_that_are_unsubscribed_by_equality(bus: EventBus) -> None:
    """A bound method is made anew each time it is looked up; it is still the same handler."""

    class Subscriber:
        async def handle(self, event: Any) -> None: ...

    one, other = Subscriber(), Subscriber()
    bus.subscribe(handler=one.handle)
    assert not bus.unsubscribe(other.handle)
    assert bus.unsubscribe(one.handle)


async def test_ids_come_from_the_context_of_the_publisher(bus: EventBus) -> None:
    """An event built before the ids were known takes them when it is published; its own ids stay."""
    bare, own = switched(), switched(correlation_id="own", causation_id="its cause")
    EventCorrelation.set_correlation_id("turn")
    EventCorrelation.set_causation_id("cause")
    try:
        await bus.publish(bare)
        await bus.publish(own)
    finally:
        EventCorrelation.set_correlation_id(None)
        EventCorrelation.set_causation_id(None)
    assert (bare.correlation_id, bare.causation_id) == ("turn", "cause")
    assert (own.correlation_id, own.causation_id) == ("own", "its cause")


@pytest.mark.parametrize("waits", [True, False])
async def test_what_a_handler_publishes_is_caused_by_what_it_handles(bus: EventBus, waits: bool) -> None:
    """Correlation and cause are inherited inside handlers of both kinds, and the publisher's own context stays."""
    following: list[BaseEvent] = []

    async def answers(event: BaseEvent) -> None:
        following.append(created())
        await bus.publish(following[-1])

    def answers_later(event: BaseEvent) -> None:
        following.append(created())

    bus.subscribe(event_type=EventType.AGENT_SWITCHED, handler=answers)
    bus.subscribe(event_type=EventType.AGENT_SWITCHED, handler=answers_later)
    EventCorrelation.set_correlation_id("publisher's")
    event = switched(correlation_id="turn")
    await bus.publish(event, wait_for_handlers=waits)
    assert await bus.drain()
    ids = [(made.correlation_id, made.causation_id) for made in following]
    assert ids == [("turn", event.event_id)] * 2
    assert (EventCorrelation.get_correlation_id(), EventCorrelation.get_causation_id()) == ("publisher's", None)
    EventCorrelation.set_correlation_id(None)


async def test_sanitise_sees_every_event_last(bus: EventBus) -> None:
    """The sanitiser runs behind the middleware and before the store; what it raises stops the event."""

    def sanitise(event: BaseEvent) -> None:
        if event.data.get("reason") == "forbidden":
            raise ValueError("not this one")
        event.data["reason"] = "clean"

    async def adds_a_secret(event: BaseEvent) -> BaseEvent:
        event.data.setdefault("reason", "secret")
        return event

    clean = EventBus(bus.store, sanitise=sanitise)
    clean.add_middleware(adds_a_secret)
    await clean.publish(switched(), wait_for_handlers=True)
    assert await clean.publish_many([switched()]) == [2]
    with pytest.raises(ValueError, match="not this one"):
        await clean.publish(switched(reason="forbidden"))
    await clean.close()
    assert [event.data["reason"] for event in bus.store.read(0, 10)] == ["clean", "clean"]


async def test_publish_many_tells_what_became_of_each(bus: EventBus) -> None:
    """Positions after the commit, 0 for a duplicate, -1 for one that a middleware cancelled; handlers follow."""
    seen: list[Any] = []

    async def no_registrations(event: BaseEvent) -> BaseEvent | None:
        return None if event.event_type == EventType.AGENT_REGISTERED else event

    bus.add_middleware(no_registrations)
    bus.subscribe(handler=seen.append)
    known, new, newer = switched(), switched(), created()
    assert await bus.publish_many([known]) == [1]
    assert await bus.publish_many([new, registered(), known, newer, new]) == [2, -1, 0, 3, 0]
    assert await bus.publish_many([]) == []
    assert await bus.publish_many([registered()]) == [-1]
    assert await bus.drain()
    assert seen == [known, new, newer]
    assert (new.position, newer.position) == (2, 3)


async def test_after_close_nothing_is_taken(bus: EventBus) -> None:
    """Every way in says that the bus is closed; closing again is fine."""
    assert await bus.close()
    assert await bus.close()
    for way_in in (bus.publish, bus.publish_threadsafe):
        with pytest.raises(BusClosed):
            result = way_in(switched())
            assert asyncio.iscoroutine(result)
            await result
    with pytest.raises(BusClosed):
        await bus.publish_many([switched()])
    assert bus.store.last_position() == 0


async def test_the_store_may_be_shared_by_two_buses() -> None:
    """Positions go on, and readers of either bus see the events of both."""
    store = MemoryStore()
    one, other = EventBus(store), EventBus(store)
    events = [switched() for _ in range(4)]
    for index, event in enumerate(events):
        await (one, other)[index % 2].publish(event)
    assert [event.position for event in events] == [1, 2, 3, 4]
    assert await one.feed.read(0, 10) == await other.feed.read(0, 10) == events
