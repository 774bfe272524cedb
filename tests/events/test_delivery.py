"""Delivery under attack: each subscriber gets each event once, in store order, whatever the others do."""

import asyncio
import gc
import random
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.events.agent_events import AgentRegisteredEvent, AgentSwitchedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.errors import BusClosed, Overloaded
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventType
from agent_runtime.events.store.base import DeadLetter, EventStore
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.store.sqlite import SqliteStore
from tests.events.conftest import until


def switched(session_id: str = "s", **common: Any) -> AgentSwitchedEvent:
    """A switch."""
    return AgentSwitchedEvent(session_id=session_id, from_agent="a", to_agent="b", **common)


def registered() -> AgentRegisteredEvent:
    """An event of another type."""
    return AgentRegisteredEvent(agent_type="coder")


def recorder(seen: list[Any], pause: Callable[[], Awaitable[None]] | None = None) -> Callable[[Any], Awaitable[None]]:
    """A handler that notes events; with a pause, one that may wait."""
    if pause is None:

        async def instant(event: Any) -> None:
            seen.append(event)

        return instant

    async def waits(event: Any) -> None:
        await pause()
        seen.append(event)

    return waits


# -- isolation ---------------------------------------------------------------------------------------------------------


async def _raises(event: Any) -> None:
    raise RuntimeError("broken")


async def _raises_later(event: Any) -> None:
    await asyncio.sleep(0)
    raise RuntimeError("broken")


def _raises_plainly(event: Any) -> None:
    raise RuntimeError("broken")


async def _raises_cancelled(event: Any) -> None:
    raise asyncio.CancelledError


async def _raises_cancelled_later(event: Any) -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


async def _cancels_its_task(event: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(10)


async def _cancels_its_task_and_returns(event: Any) -> None:
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    raise RuntimeError("no wait after it")


async def _awaits_a_cancelled_future(event: Any) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def _returns_garbage_to_await(event: Any) -> None:
    await None  # type: ignore[misc]


async def _stops_iteration(event: Any) -> None:
    raise StopIteration("out of place")


async def _times_out_by_itself(event: Any) -> None:
    async with asyncio.timeout(0.001):
        await asyncio.sleep(10)


@pytest.mark.parametrize(
    "handler",
    [
        _raises,
        _raises_later,
        _raises_plainly,
        _raises_cancelled,
        _raises_cancelled_later,
        _cancels_its_task,
        _cancels_its_task_and_returns,
        _awaits_a_cancelled_future,
        _returns_garbage_to_await,
        _stops_iteration,
        _times_out_by_itself,
    ],
)
@pytest.mark.parametrize("waits", [True, False])
async def test_a_bad_handler_harms_nobody(bus: EventBus, handler: Any, waits: bool) -> None:
    """Whatever way it fails in, it fails alone, every time, and the publisher is not touched."""
    before: list[Any] = []
    after: list[Any] = []
    bus.subscribe(handler=recorder(before), priority=10)
    bus.subscribe(handler=handler, priority=5)
    bus.subscribe(handler=recorder(after, lambda: asyncio.sleep(0)))
    events = [switched() for _ in range(3)]
    for event in events:
        results = await bus.publish(event, wait_for_handlers=waits)
        assert results == ([None, None, None] if waits else None)
    assert await bus.drain(5)
    stats = bus.get_stats()
    assert (before, after) == (events, events)
    assert (stats.failed_handlers, stats.successful_handlers) == (3, 6)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_hanging_handler_delays_nobody(bus: EventBus) -> None:
    """Others have every event at once while one hangs for good; it shows as queue depth."""
    seen: list[Any] = []
    gate = asyncio.Event()
    bus.subscribe(handler=recorder([], gate.wait), priority=10, timeout=None)  # type: ignore[arg-type]
    bus.subscribe(handler=recorder(seen))
    bus.subscribe(handler=recorder(seen, lambda: asyncio.sleep(0)))
    for _ in range(100):
        await bus.publish(switched())
    await until(lambda: len(seen) == 200)
    assert bus.get_stats().queue_depth == 99
    gate.set()


async def test_a_hanging_handler_holds_up_waited_events_once(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a hanging handler waits; the others lose patience with it once, not for each event."""
    monkeypatch.setattr("agent_runtime.events.worker.PATIENCE_SECONDS", 0.05)
    seen: list[Any] = []
    gate = asyncio.Event()
    bus.subscribe(handler=recorder([], gate.wait), priority=10, timeout=None)  # type: ignore[arg-type]
    bus.subscribe(handler=recorder(seen))
    events = [switched() for _ in range(200)]
    waiting = [asyncio.create_task(bus.publish(event, wait_for_handlers=True)) for event in events[:100]]
    await until(lambda: seen == events[:100], 3)
    for event in events[100:]:
        await bus.publish(event)
    await until(lambda: seen == events, 3)
    assert not any(task.done() for task in waiting)
    gate.set()
    assert await asyncio.gather(*waiting) == [[None, None]] * 100


async def test_a_handler_that_swallows_its_timeout_blocks_only_itself(bus: EventBus) -> None:
    """It ignores its cancellation and goes on; the others have their events meanwhile."""
    seen: list[Any] = []
    stubborn: list[Any] = []
    gate = asyncio.Event()

    async def swallows(event: Any) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                stubborn.append(event)

    bus.subscribe(handler=swallows, timeout=0.02, priority=5)
    bus.subscribe(handler=recorder(seen))
    event = switched()
    await bus.publish(event)
    await until(lambda: stubborn)
    await bus.publish(registered())
    await until(lambda: len(seen) == 2)
    gate.set()
    assert await bus.drain()


async def test_a_cancelled_publisher_takes_no_handler_with_it(bus: EventBus) -> None:
    """Handlers run to their end, each once, though who waited for them has gone."""
    seen: list[Any] = []
    gate = asyncio.Event()
    bus.subscribe(handler=recorder(seen, gate.wait), priority=5)  # type: ignore[arg-type]
    bus.subscribe(handler=recorder(seen))
    event = switched()
    publisher = asyncio.create_task(bus.publish(event, wait_for_handlers=True))
    await until(lambda: bus.store.last_position() == 1 and bus.subscriptions[0].worker)
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    gate.set()
    assert await bus.drain()
    assert seen == [event, event]
    assert bus.get_stats().failed_handlers == 0


async def test_what_a_handler_sets_does_not_reach_the_publisher(bus: EventBus) -> None:
    """A handler's timeouts and task groups work, and are its own."""
    results = []

    async def careful(event: Any) -> str:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.sleep(0, "from its group"))
        return task.result()

    async def limited(event: Any) -> str:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(10)
        return "never"

    bus.subscribe(handler=careful)
    bus.subscribe(handler=limited)
    async with asyncio.timeout(5):
        results.append(await bus.publish(switched(), wait_for_handlers=True))
    assert results == [["from its group", None]]


# -- order -------------------------------------------------------------------------------------------------------------


async def test_each_sees_store_order_once_under_a_mixed_load(bus: EventBus) -> None:
    """Many publishers, waiting and not, some events twice; fast, slow, failing and plain subscribers all agree."""
    rng = random.Random(7)
    seen: dict[str, list[int]] = {name: [] for name in ("instant", "plain", "yields", "sleeps", "fails", "awaitable")}

    async def instant(event: BaseEvent) -> None:
        seen["instant"].append(event.position)

    async def yields(event: BaseEvent) -> None:
        await asyncio.sleep(0)
        seen["yields"].append(event.position)

    async def sleeps(event: BaseEvent) -> None:
        if rng.random() < 0.1:
            await asyncio.sleep(0.001)
        seen["sleeps"].append(event.position)

    async def fails(event: BaseEvent) -> None:
        seen["fails"].append(event.position)
        if rng.random() < 0.3:
            await asyncio.sleep(0)
            raise RuntimeError("broken")

    bus.subscribe(handler=instant, priority=rng.randrange(9))
    bus.subscribe(handler=lambda event: seen["plain"].append(event.position), priority=rng.randrange(9))
    bus.subscribe(handler=yields, priority=rng.randrange(9))
    bus.subscribe(handler=sleeps, priority=rng.randrange(9))
    bus.subscribe(handler=fails, priority=rng.randrange(9))
    bus.subscribe(
        handler=lambda event: asyncio.sleep(0, seen["awaitable"].append(event.position)), priority=rng.randrange(9)
    )

    async def publisher(name: str) -> None:
        for number in range(40):
            event = switched(name) if number % 3 else registered()
            await bus.publish(event, wait_for_handlers=rng.random() < 0.3)
            if rng.random() < 0.1:
                await bus.publish(event, wait_for_handlers=rng.random() < 0.5)
            if rng.random() < 0.1:
                await bus.publish_many([switched(name), switched(name)])
            if rng.random() < 0.2:
                await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(*(publisher(f"s{number}") for number in range(8)))
        assert await bus.drain()
    last = bus.store.last_position()
    assert last >= 320
    expected = list(range(1, last + 1))
    assert seen == dict.fromkeys(seen, expected)


async def test_waited_events_keep_their_place_between_others(bus: EventBus) -> None:
    """A waited event neither overtakes what was published before, nor is overtaken."""
    seen: list[Any] = []
    bus.subscribe(handler=recorder(seen))
    events = [switched() for _ in range(30)]
    for index, event in enumerate(events):
        await bus.publish(event, wait_for_handlers=index % 5 == 4)
        if index % 5 == 4:
            assert seen == events[: index + 1]
    assert await bus.drain()
    assert seen == events


async def test_waited_handlers_keep_their_order_also_when_they_are_behind(bus: EventBus) -> None:
    """One after another by priority, though the first has a backlog and the last has none."""
    steps: list[str] = []
    gate = asyncio.Event()

    async def first(event: BaseEvent) -> None:
        await gate.wait()
        steps.append(f"first {event.data.get('reason')}")

    async def second(event: BaseEvent) -> None:
        steps.append(f"second {event.data.get('reason')}")

    bus.subscribe(handler=first, priority=10)
    bus.subscribe(handler=second)
    await bus.publish(switched(reason="1"))
    waited = asyncio.create_task(bus.publish(switched(reason="2"), wait_for_handlers=True))
    await until(lambda: "second 1" in steps)
    gate.set()
    await waited
    assert steps == ["second 1", "first 1", "first 2", "second 2"]


async def test_unsubscribing_in_the_middle(bus: EventBus) -> None:
    """A handler that is unsubscribed gets nothing more, not even what was queued for it; the others get all."""
    gate = asyncio.Event()
    gone: list[Any] = []
    stays: list[Any] = []
    unsubscribe = bus.subscribe(handler=recorder(gone, gate.wait), priority=5)  # type: ignore[arg-type]
    bus.subscribe(handler=recorder(stays))
    for _ in range(10):
        await bus.publish(switched())
    waited = asyncio.create_task(bus.publish(switched(), wait_for_handlers=True))
    await until(lambda: len(bus.subscriptions[0].queue) == 10)
    unsubscribe()
    gate.set()
    assert await waited == [None, None]
    assert await bus.drain()
    assert (len(gone), len(stays)) == (1, 11)


async def test_a_handler_unsubscribes_itself_and_another(bus: EventBus) -> None:
    """It takes effect for the very event at hand."""
    calls: list[str] = []

    async def first(event: Any) -> None:
        calls.append("first")
        bus.unsubscribe(first)
        bus.unsubscribe(second)

    async def second(event: Any) -> None:
        calls.append("second")

    async def third(event: Any) -> str:
        calls.append("third")
        return "third"

    for handler in (first, second, third):
        bus.subscribe(handler=handler)
    assert await bus.publish(switched(), wait_for_handlers=True) == [None, None, "third"]
    await bus.publish(switched())
    assert await bus.drain()
    assert calls == ["first", "third", "third"]


async def test_a_late_subscriber_does_not_see_what_was_published_before(bus: EventBus) -> None:
    """Also if nobody has handled it yet."""
    early: list[Any] = []
    late: list[Any] = []
    bus.subscribe(handler=recorder(early))
    await bus.publish(switched())
    if not bus.store.blocking:
        bus.subscribe(handler=recorder(late))
    assert await bus.drain()
    assert (len(early), late) == (1, [])


# -- publishing from handlers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer_waits", [True, False])
@pytest.mark.parametrize("inner_waits", [True, False])
async def test_a_handler_publishes(bus: EventBus, outer_waits: bool, inner_waits: bool) -> None:
    """What a handler publishes, waiting or not, reaches everyone, in store order, before and behind it in priority."""
    seen: dict[str, list[str]] = {"above": [], "itself": [], "below": [], "below, waits": []}

    async def itself(event: BaseEvent) -> None:
        seen["itself"].append(event.event_type)
        if event.event_type == EventType.AGENT_SWITCHED:
            results = await bus.publish(registered(), wait_for_handlers=inner_waits)
            assert results == ([None] * 4 if inner_waits else None)

    async def above(event: BaseEvent) -> None:
        seen["above"].append(event.event_type)

    async def below(event: BaseEvent) -> None:
        seen["below"].append(event.event_type)

    async def below_waits(event: BaseEvent) -> None:
        await asyncio.sleep(0)
        seen["below, waits"].append(event.event_type)

    for priority, handler in enumerate((below_waits, below, itself, above)):
        bus.subscribe(handler=handler, priority=priority)
    async with asyncio.timeout(10):
        for _ in range(3):
            await bus.publish(switched(), wait_for_handlers=outer_waits)
            assert await bus.drain()
    assert bus.get_stats().failed_handlers == 0
    expected = ["agent_switched", "agent_registered"] * 3
    assert seen == dict.fromkeys(seen, expected)


async def test_handlers_that_wait_for_each_other_through_events(bus: EventBus) -> None:
    """A waits for B's event, B waits for A's: nobody hangs, and everybody sees store order."""
    seen: dict[str, list[int]] = {"a": [], "b": [], "all": []}
    depth = 5

    def step(event: BaseEvent) -> int:
        return int(event.data["reason"])

    async def a(event: BaseEvent) -> None:
        seen["a"].append(event.position)
        if step(event) % 2 == 0 and step(event) < depth:
            await bus.publish(switched(reason=str(step(event) + 1)), wait_for_handlers=True)

    async def b(event: BaseEvent) -> None:
        seen["b"].append(event.position)
        if step(event) % 2 and step(event) < depth:
            await bus.publish(switched(reason=str(step(event) + 1)), wait_for_handlers=True)

    bus.subscribe(handler=a, priority=2)
    bus.subscribe(handler=b, priority=1)
    bus.subscribe(handler=lambda event: seen["all"].append(event.position))
    async with asyncio.timeout(10):
        await asyncio.gather(*(bus.publish(switched(reason="0"), wait_for_handlers=True) for _ in range(4)))
        assert await bus.drain()
    expected = list(range(1, 4 * (depth + 1) + 1))
    assert seen == dict.fromkeys(seen, expected)
    assert bus.get_stats().failed_handlers == 0


@pytest.mark.parametrize("seed", range(30))
async def test_store_order_holds_in_any_tangle(bus: EventBus, seed: int) -> None:
    """Handlers that at random publish and wait, alone and in groups, yield, fail, or cancel themselves."""
    rng = random.Random(seed)
    seen: list[tuple[EventType | None, list[BaseEvent]]] = []

    def made(depth: int) -> BaseEvent:
        return switched(reason=str(depth)) if rng.random() < 0.5 else registered()

    def tangled(mine: list[BaseEvent]) -> Callable[[BaseEvent], Awaitable[None]]:
        async def handle(event: BaseEvent) -> None:
            mine.append(event)
            depth = int(event.data.get("reason", 0))
            chance = rng.random()
            if depth and chance < 0.3:
                await bus.publish(made(depth - 1), wait_for_handlers=rng.random() < 0.7)
            elif depth and chance < 0.4:
                await asyncio.gather(*(bus.publish(made(depth - 1), wait_for_handlers=True) for _ in range(2)))
            elif chance < 0.6:
                await asyncio.sleep(0)
            elif chance < 0.65:
                await _cancels_its_task(event)
            elif chance < 0.7:
                raise RuntimeError("broken")

        return handle

    for _ in range(rng.randrange(2, 8)):
        listens = rng.choice([None, None, EventType.AGENT_SWITCHED, EventType.AGENT_REGISTERED])
        mine: list[BaseEvent] = []
        seen.append((listens, mine))
        handler = tangled(mine) if rng.random() < 0.7 else recorder(mine)
        bus.subscribe(event_type=listens, handler=handler, priority=rng.randrange(4))

    async def publisher() -> None:
        for _ in range(25):
            await bus.publish(made(2), wait_for_handlers=rng.random() < 0.4)
            if rng.random() < 0.3:
                await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(*(publisher() for _ in range(rng.randrange(1, 6))))
        assert await bus.drain()
    stored = bus.store.read(0, 100_000)
    for listens, handled in seen:
        assert handled == [event for event in stored if listens in (None, event.event_type)]


async def test_a_handler_waits_for_several_events_at_once(bus: EventBus) -> None:
    """Gathered in tasks of its own, also where its own subscription has to handle them."""
    seen: list[str] = []

    async def fans_out(event: BaseEvent) -> None:
        seen.append(event.event_type)
        if event.event_type == EventType.AGENT_SWITCHED:
            await asyncio.gather(*(bus.publish(registered(), wait_for_handlers=True) for _ in range(5)))
            seen.append("all of them handled")

    bus.subscribe(handler=fans_out)
    async with asyncio.timeout(10):
        await bus.publish(switched(), wait_for_handlers=True)
    assert seen == ["agent_switched", *["agent_registered"] * 5, "all of them handled"]


async def test_a_task_that_a_handler_leaves_behind_is_an_ordinary_publisher(bus: EventBus) -> None:
    """Long after the handler has ended, its task publishes in order, and is refused once the bus is closed."""
    seen: list[Any] = []
    go_on = asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []

    async def later() -> None:
        await go_on.wait()
        for _ in range(5):
            await bus.publish(registered(), wait_for_handlers=True)
        await bus.close()
        await bus.publish(registered())

    async def leaves_a_task(event: BaseEvent) -> None:
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(later()))

    bus.subscribe(event_type=EventType.AGENT_SWITCHED, handler=leaves_a_task)
    bus.subscribe(handler=recorder(seen, lambda: asyncio.sleep(0)))
    await bus.publish(switched(), wait_for_handlers=True)
    go_on.set()
    with pytest.raises(BusClosed):
        await asyncio.wait_for(tasks[0], 10)
    assert [event.position for event in seen] == [1, 2, 3, 4, 5, 6]


# -- bounds ------------------------------------------------------------------------------------------------------------


async def test_a_fast_publisher_is_held_back_by_a_slow_subscriber(store: EventStore) -> None:
    """The queue stays bounded, nothing is lost, and nothing is dead-lettered while there is progress."""
    bus = EventBus(store, queue_size=50, writer_queue_size=20)
    deepest = 0
    seen: list[Any] = []

    async def slow(event: Any) -> None:
        nonlocal deepest
        deepest = max(deepest, len(bus.subscriptions[0].queue))
        await asyncio.sleep(0.0005)
        seen.append(event)

    bus.subscribe(handler=slow)
    events = [switched() for _ in range(400)]
    for event in events:
        await bus.publish(event)
    assert await bus.drain()
    assert await bus.close()
    assert seen == events
    assert 40 <= deepest <= 2 * 50 + 20
    assert bus.get_stats().dead_letters == 0


async def test_a_publisher_that_never_waits_is_held_back_in_memory() -> None:
    """A loop of publishes without an ``await`` that waits would fill the memory; here it lets handlers catch up."""
    bus, deepest = EventBus(queue_size=100), 0
    bus.subscribe(handler=lambda event: None)
    for _ in range(5_000):
        await bus.publish(switched())
        deepest = max(deepest, bus.get_stats().queue_depth)
    assert await bus.close()
    assert deepest == 100


async def test_a_stalled_subscriber_is_dead_lettered_and_recovers(
    bus: EventBus, store: EventStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Full and without progress: publishers go on, what it misses is kept as dead letters; then it works as before."""
    monkeypatch.setattr("agent_runtime.events.delivery.STALL_SECONDS", 0.05)
    small = EventBus(store, queue_size=10)
    gate = asyncio.Event()
    stalled: list[Any] = []
    others: list[Any] = []
    small.subscribe(handler=recorder(stalled, gate.wait), timeout=None, name="stalled")  # type: ignore[arg-type]
    small.subscribe(handler=recorder(others))
    events = [switched() for _ in range(40)]
    for event in events:
        assert await asyncio.wait_for(small.publish_many([event]), 5) == [event.position]
    await until(lambda: len(others) == 40 and small.get_stats().dead_letters)
    await until(lambda: not small.writer.waiting)
    letters = store.dead_letters()
    assert "subscriber stalled is stalled" in caplog.text
    assert {(letter.queue, letter.consumer, letter.attempts) for letter in letters} == {("handlers", "stalled", 0)}
    gate.set()
    assert await small.drain()
    missed = [letter.event_id for letter in letters]
    assert [event.event_id for event in stalled] + missed == [event.event_id for event in events]
    assert len(missed) >= 20
    assert await small.retry_dead_letter(letters[0].letter_id)
    last = switched()
    await small.publish(last, wait_for_handlers=True)
    assert stalled[-2:] == [events[-len(missed)], last]
    assert await small.close()
    assert small.get_stats().dead_letters == len(missed) - 1


async def test_a_handler_that_fills_its_own_queue_is_not_held_back(store: EventStore) -> None:
    """It would wait for itself for ever."""
    bus = EventBus(store, queue_size=10)
    seen: list[str] = []

    async def multiplies(event: BaseEvent) -> None:
        seen.append(event.event_type)
        if event.event_type == EventType.AGENT_SWITCHED:
            for _ in range(50):
                await bus.publish(registered())

    bus.subscribe(handler=multiplies)
    await bus.publish(switched(), wait_for_handlers=True)
    assert await bus.drain(10)
    assert await bus.close()
    assert seen == ["agent_switched", *["agent_registered"] * 50]


async def test_no_live_tasks_after_many_publishes(bus: EventBus) -> None:
    """20,000 publishes leave no task behind, and none while handlers need none."""
    seen: list[Any] = []
    before = len(asyncio.all_tasks())
    bus.subscribe(handler=recorder(seen))
    for _ in range(20_000):
        await bus.publish(switched())
    assert len(asyncio.all_tasks()) == before
    assert await bus.drain()
    assert (len(seen), len(asyncio.all_tasks())) == (20_000, before)


# -- loops and threads -------------------------------------------------------------------------------------------------


def test_built_outside_a_loop_used_under_several(store: EventStore) -> None:
    """Built without a loop, subscribed without a loop, used under one, used and cleared under another."""
    bus = EventBus(store)
    seen: list[Any] = []
    bus.subscribe(handler=recorder(seen))
    bus.subscribe(handler=recorder(seen, lambda: asyncio.sleep(0)))

    async def use() -> None:
        await bus.publish(switched(), wait_for_handlers=True)
        await bus.publish(switched())
        assert await bus.drain()

    async def clear() -> None:
        await bus.clear()
        assert await bus.publish(switched(), wait_for_handlers=True) is None

    asyncio.run(use())
    asyncio.run(use())
    assert len(seen) == 8
    asyncio.run(clear())
    asyncio.run(use())
    assert len(seen) == 8
    assert asyncio.run(bus.close())


def test_a_queue_goes_on_under_the_next_loop(store: EventStore) -> None:
    """A loop that ends in the middle takes only the event in hand with it, as a dead letter."""
    bus = EventBus(store)
    seen: list[Any] = []
    hang = True

    async def hangs(event: BaseEvent) -> None:
        if hang:
            await asyncio.sleep(3600)
        seen.append(event)

    bus.subscribe(handler=hangs, timeout=None)
    events = [switched() for _ in range(5)]

    async def first() -> None:
        for event in events[:-1]:
            await bus.publish(event)
        waits = asyncio.create_task(bus.publish(events[-1], wait_for_handlers=True))
        await until(lambda: len(bus.subscriptions[0].queue) == 4)
        waits.cancel()

    async def second() -> None:
        assert await bus.drain(10)
        assert await bus.publish(switched(), wait_for_handlers=True) == [None]
        assert await bus.close()

    asyncio.run(first())
    hang = False
    asyncio.run(second())
    assert seen[:4] == events[1:]
    assert [letter.event_id for letter in store.dead_letters()] == [events[0].event_id]


def test_events_committed_after_their_loop_had_ended_are_delivered_under_the_next(tmp_path: Path) -> None:
    """Accepted is accepted: the writer commits on its own thread, and handlers follow when there is a loop again."""
    store = SqliteStore(tmp_path / "events.db")
    bus = EventBus(store)
    seen: list[Any] = []
    bus.subscribe(handler=recorder(seen))
    events = [switched() for _ in range(300)]

    async def publish() -> None:
        for event in events:
            await bus.publish(event)

    async def drain() -> None:
        assert await bus.drain(10)
        assert await bus.close()

    asyncio.run(publish())
    asyncio.run(drain())
    assert seen == events
    store.close()


async def test_two_loops_at_once_are_refused_while_handlers_are_at_work() -> None:
    """Handlers belong to one loop; a second one says so instead of corrupting it."""
    bus = EventBus()
    gate = asyncio.Event()
    bus.subscribe(handler=recorder([], gate.wait))  # type: ignore[arg-type]
    await bus.publish(switched())
    await until(lambda: bus.subscriptions[0].worker)

    async def elsewhere() -> None:
        await bus.drain()

    with pytest.raises(RuntimeError, match="use publish_threadsafe"):
        await asyncio.to_thread(asyncio.run, elsewhere())
    gate.set()
    assert await bus.close()


async def test_publish_threadsafe_from_eight_threads(bus: EventBus) -> None:
    """Nothing is lost, and the events of one thread keep their order."""
    seen: list[BaseEvent] = []
    bus.subscribe(handler=recorder(seen))

    async def dawdles(event: BaseEvent) -> BaseEvent:
        await asyncio.sleep(0)
        return event

    bus.add_middleware(dawdles)
    await bus.publish(switched("main"))
    made = {f"thread {number}": [switched(f"thread {number}") for _ in range(100)] for number in range(8)}
    futures: list[Future[None]] = []

    def publish(events: list[AgentSwitchedEvent]) -> None:
        for event in events:
            futures.append(bus.publish_threadsafe(event))

    await asyncio.gather(*(asyncio.to_thread(publish, events) for events in made.values()))
    assert await bus.drain()
    assert [future.result(0) for future in futures] == [None] * 800
    assert {name: [event for event in seen if event.session_id == name] for name in made} == made
    assert bus.store.last_position() == 801


def test_publish_threadsafe_before_any_loop(store: EventStore) -> None:
    """The event waits, and is published as soon as the bus is used under a loop, whatever it is used for."""
    for use in (EventBus.drain, EventBus.clear, EventBus.close):
        bus = EventBus(store)
        seen: list[Any] = []
        bus.subscribe(handler=recorder(seen))
        event = switched()
        future = bus.publish_threadsafe(event)
        assert not future.done()
        asyncio.run(_use_and_drain(bus, use))
        assert future.result(0) is None
        assert store.get(event.event_id) == event
        assert seen == ([] if use is EventBus.clear else [event])


async def _use_and_drain(bus: EventBus, use: Any) -> None:
    await use(bus)
    await bus.drain(10)


async def test_publish_threadsafe_under_a_second_loop_that_only_waited() -> None:
    """A bus whose first loop is gone belongs to the next one with its first publish, of whatever kind."""
    bus = EventBus()
    bus.subscribe(handler=lambda event: None)

    async def use() -> None:
        await bus.publish(switched(), wait_for_handlers=True)

    await asyncio.to_thread(asyncio.run, use())
    await bus.publish(switched(), wait_for_handlers=True)
    await asyncio.to_thread(lambda: bus.publish_threadsafe(switched()).result(5))
    assert bus.store.last_position() == 3


async def test_publish_threadsafe_is_bounded_and_tells_errors() -> None:
    """Too many waiting are refused at once; a publish that fails later tells its future."""
    bus = EventBus(writer_queue_size=2, sanitise=_refuse)
    futures = [bus.publish_threadsafe(switched()) for _ in range(2)]
    with pytest.raises(Overloaded):
        bus.publish_threadsafe(switched())
    assert await bus.drain()
    assert [str(future.exception(0)) for future in futures] == ["refused", "refused"]
    cancelled = bus.publish_threadsafe(switched())
    assert cancelled.cancel()
    assert await bus.close()
    assert bus.store.last_position() == 0


def _refuse(event: BaseEvent) -> None:
    raise ValueError("refused")


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_close_drains(store: EventStore) -> None:
    """Everything accepted before, also from threads and through slow middleware, is stored and handled."""
    bus = EventBus(store)
    seen: list[Any] = []

    async def dawdles(event: BaseEvent) -> BaseEvent:
        await asyncio.sleep(0.001)
        return event

    bus.add_middleware(dawdles)
    bus.subscribe(handler=recorder(seen, lambda: asyncio.sleep(0.001)))
    await bus.publish(switched())
    publishers = [asyncio.create_task(bus.publish(switched())) for _ in range(10)]
    for _ in range(10):
        bus.publish_threadsafe(switched())
    await asyncio.sleep(0)
    assert await bus.close()
    await asyncio.gather(*publishers)
    assert (len(seen), store.last_position()) == (21, 21)
    assert len(asyncio.all_tasks()) == 1


async def test_while_closing_what_is_handled_may_still_lead_to_something(store: EventStore) -> None:
    """A handler that still has events may publish what follows from them; anyone else is refused."""
    bus = EventBus(store)
    gate = asyncio.Event()
    seen: list[str] = []

    async def leads_to_another(event: BaseEvent) -> None:
        seen.append(event.event_type)
        if event.event_type == EventType.AGENT_SWITCHED:
            await gate.wait()
            await bus.publish(registered(), wait_for_handlers=True)

    bus.subscribe(handler=leads_to_another)
    await bus.publish(switched())
    await until(lambda: seen)
    closing = asyncio.create_task(bus.close())
    await asyncio.sleep(0)
    with pytest.raises(BusClosed):
        await bus.publish(switched())
    gate.set()
    assert await closing
    assert seen == ["agent_switched", "agent_registered"]


async def test_close_gives_up_in_time(store: EventStore) -> None:
    """What hangs is cancelled, what is queued behind it is dead-lettered, who waits is told, and no task is left."""
    bus = EventBus(store)
    seen: list[Any] = []
    bus.subscribe(handler=recorder([], asyncio.Event().wait), timeout=None, name="hangs")  # type: ignore[arg-type]
    bus.subscribe(handler=recorder(seen))
    events = [switched() for _ in range(10)]
    for event in events[:-1]:
        await bus.publish(event)
    waited = asyncio.create_task(bus.publish(events[-1], wait_for_handlers=True))
    await until(lambda: len(bus.subscriptions[0].queue) == 9)
    assert not await asyncio.wait_for(bus.close(timeout=0.1), 5)
    assert await asyncio.wait_for(waited, 5) == [None, None]
    missed = [letter.event_id for letter in store.dead_letters() if letter.consumer == "hangs"]
    assert sorted(missed) == sorted(event.event_id for event in events)
    assert seen[:9] == events[:-1]
    assert len(asyncio.all_tasks()) == 1


async def test_close_is_bounded_while_a_handler_refuses_to_end(store: EventStore) -> None:
    """Even a handler that swallows its cancellation does not keep ``close`` from returning."""
    bus = EventBus(store)
    gate = asyncio.Event()

    async def stubborn(event: Any) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    bus.subscribe(handler=stubborn, timeout=None)
    await bus.publish(switched())
    await until(lambda: bus.subscriptions[0].worker)
    assert not await asyncio.wait_for(bus.close(timeout=0.1), 5)
    gate.set()
    await until(lambda: len(asyncio.all_tasks()) == 1)


class Stuck(MemoryStore):
    """A store on a disk that does not answer."""

    blocking = True

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()

    def append(self, events: Any) -> list[int]:
        """Hangs until it may go on."""
        self.answers.wait()
        return super().append(events)


async def test_close_is_bounded_while_the_store_hangs() -> None:
    """It says that not everything was stored; what the store takes later it still takes."""
    store = Stuck()
    bus = EventBus(store)
    await bus.publish(switched())
    assert not await asyncio.wait_for(bus.close(timeout=0.2), 5)
    store.answers.set()
    await until(lambda: store.last_position() == 1)


async def test_dead_letters_never_raise_into_delivery(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """An error text that no store takes is made fit; an event that can't be written any more is logged instead."""
    spoilt, fine = switched(), switched()
    spoilt.data["x"] = object()
    bus.dead_letter("somebody", spoilt, RuntimeError("lost"), 1)
    bus.dead_letter("somebody", fine, RuntimeError("lone \ud800 surrogate"), 1)
    assert await bus.drain()
    assert [letter.error for letter in bus.store.dead_letters()] == ["RuntimeError: lone ? surrogate"]
    assert "no dead letter could be kept" in caplog.text


async def test_retrying_a_letter_of_nobody(bus: EventBus) -> None:
    """Letters that do not exist, of handlers that are gone, and of the span exporter are refused."""
    with pytest.raises(LookupError, match="no dead letter 1"):
        await bus.retry_dead_letter(1)
    bus.dead_letter("gone", switched(), RuntimeError("lost"), 1)
    assert await bus.drain()
    with pytest.raises(LookupError, match="no subscriber is called gone"):
        await bus.retry_dead_letter(1)
    letter_id = bus.store.add_dead_letter(DeadLetter("spans", "otlp", "", "{}", "refused", 1, 1))
    with pytest.raises(LookupError, match="dead letter 2 is of the queue spans"):
        await bus.retry_dead_letter(letter_id)


async def test_workers_do_not_keep_events_alive() -> None:
    """When all is handled, nothing but the store knows an event."""

    class Forgetful(MemoryStore):
        def append_one(self, event: BaseEvent) -> int:
            """Gives positions, keeps nothing."""
            self._position += 1
            event.position = self._position
            return self._position

    class Traced(AgentSwitchedEvent):
        __slots__ = ("__weakref__",)

    import weakref

    bus = EventBus(Forgetful())
    bus.subscribe(handler=recorder([None], lambda: asyncio.sleep(0)))
    bus.subscribe(handler=lambda event: None)
    references = []
    for waits in (True, False):
        event = Traced(session_id="s", from_agent="a", to_agent="b")
        references.append(weakref.ref(event))
        await bus.publish(event, wait_for_handlers=waits)
    del event
    bus.subscriptions[0].handler.__closure__[1].cell_contents.clear()  # type: ignore[attr-defined]
    assert await bus.drain()
    bus.subscriptions[0].handler.__closure__[1].cell_contents.clear()  # type: ignore[attr-defined]
    gc.collect()
    assert [reference() for reference in references] == [None, None]
