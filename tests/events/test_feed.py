"""The feed: readers near the end are served from memory, all others from the store, and nobody misses an event."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from agent_runtime.events import feed as feed_module
from agent_runtime.events.agent_events import AgentSwitchedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.feed import Feed
from agent_runtime.events.store.base import EventStore
from agent_runtime.events.store.memory import MemoryStore
from tests.events.conftest import until


def switched() -> AgentSwitchedEvent:
    """A switch."""
    return AgentSwitchedEvent(from_agent="a", to_agent="b")


class CountingStore(MemoryStore):
    """A store that counts what is read from it, as if that were expensive."""

    blocking = True
    reads = 0

    def read(self, after: int, limit: int) -> list[BaseEvent]:
        """Read and count."""
        self.reads += 1
        return super().read(after, limit)


def stored(store: EventStore, count: int) -> list[BaseEvent]:
    """So many new events in the store."""
    events: list[BaseEvent] = [switched() for _ in range(count)]
    store.append(events)
    return events


async def test_reads_from_memory_what_it_holds() -> None:
    """And does not ask the store for it, nor when there is nothing new."""
    store = CountingStore()
    feed = Feed(store)
    events = stored(store, 10)
    feed.extend(events)
    assert await feed.read(0, 4) == events[:4]
    assert await feed.read(4, 100) == events[4:]
    assert await feed.read(10, 100) == []
    assert store.reads == 0


async def test_reads_older_events_from_the_store() -> None:
    """What is no longer held, or was there before, is found all the same; memory is bounded."""
    store = CountingStore()
    feed = Feed(store, keep=10)
    events = stored(store, 5)
    for _ in range(20):
        more = stored(store, 3)
        feed.extend(more)
        events += more
    assert len(feed._recent) <= 20
    assert await feed.read(0, 100) == events
    assert store.reads == 1
    assert await feed.read(len(events) - 10, 100) == events[-10:]
    assert store.reads == 1


async def test_events_that_somebody_else_stored_are_not_missed() -> None:
    """Between those that the bus stored, inside its batches, and behind them."""
    store = CountingStore()
    feed = Feed(store)
    events = stored(store, 2)
    feed.extend(events)
    events += stored(store, 2)  # somebody else's
    mine = stored(store, 3)
    feed.extend(mine)
    events += mine
    mixed = stored(store, 3)
    feed.extend([mixed[0], mixed[2]])
    events += mixed
    events += stored(store, 1)
    for after in range(len(events)):
        assert await feed.read(after, 3) == events[after : after + 3]


async def test_wait_returns_with_the_next_event(bus: EventBus) -> None:
    """At once if it is there already, else when it is committed; every reader is woken."""
    await bus.publish_many([switched()])
    await asyncio.wait_for(bus.feed.wait(0, 60), 5)
    readers = [asyncio.create_task(bus.feed.wait(1, 60)) for _ in range(3)]
    await until(lambda: len(bus.feed.followers) == 3)
    await bus.publish(switched())
    await asyncio.wait_for(asyncio.gather(*readers), 5)
    assert [event.position for event in await bus.feed.read(1, 10)] == [2]


async def test_wait_gives_up(bus: EventBus) -> None:
    """After its timeout, after ``wake``, or when it is cancelled; nothing of it stays."""
    await bus.feed.wait(0, 0.01)
    reader = asyncio.create_task(bus.feed.wait(0, 60))
    await until(lambda: bus.feed.followers)
    bus.feed.wake()
    await asyncio.wait_for(reader, 5)
    reader = asyncio.create_task(bus.feed.wait(0, 60))
    await until(lambda: bus.feed.followers)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert bus.feed.followers == set()


def test_readers_of_a_loop_that_is_gone_harm_nobody(store: EventStore) -> None:
    """A loop that was closed under a waiting reader does not make publishing fail."""
    bus = EventBus(store)
    loop = asyncio.new_event_loop()
    reader = loop.create_task(bus.feed.wait(0, 60))
    loop.run_until_complete(asyncio.sleep(0))
    reader._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    async def publish() -> None:
        await bus.publish(switched(), wait_for_handlers=True)
        assert await bus.close()

    asyncio.run(publish())
    assert store.last_position() == 1


async def test_a_reader_on_another_loop_is_woken() -> None:
    """Whoever follows from a thread with a loop of its own is told there."""
    bus = EventBus()
    woken = threading.Event()

    async def follow() -> None:
        await bus.feed.wait(0, 60)
        woken.set()

    thread = threading.Thread(target=asyncio.run, args=(follow(),))
    thread.start()
    await until(lambda: bus.feed.followers)
    await bus.publish(switched())
    await asyncio.to_thread(woken.wait, 5)
    thread.join(5)
    assert woken.is_set()


async def test_following_under_load_misses_nothing(bus: EventBus) -> None:
    """Several readers at their own pace see every event once, in order, while publishers are at work."""
    total = 2_000
    seen: dict[int, list[int]] = {pace: [] for pace in (1, 7, 500)}

    async def follow(pace: int) -> None:
        after = 0
        while after < total:
            events = await bus.feed.read(after, pace)
            if not events:
                await bus.feed.wait(after, 5)
                continue
            seen[pace] += [event.position for event in events]
            after = events[-1].position
            await asyncio.sleep(0)

    async def publish() -> None:
        for number in range(total // 4):
            await bus.publish(switched())
            await bus.publish(switched(), wait_for_handlers=number % 9 == 0)
            await _publish_many(bus, [switched(), switched()])

    async with asyncio.timeout(60):
        await asyncio.gather(publish(), *(follow(pace) for pace in seen))
    assert seen == dict.fromkeys(seen, list(range(1, total + 1)))  # noqa: RUF024


async def _publish_many(bus: EventBus, events: Sequence[Any]) -> None:
    await bus.publish_many(events)


async def test_large_events_are_held_in_smaller_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held is bounded in bytes too; what is let go comes from the store, and nobody misses an event."""
    monkeypatch.setattr(feed_module, "KEEP_BYTES", 1_000)
    store = CountingStore()
    feed = Feed(store)
    events = []
    for _ in range(50):
        batch = stored(store, 3)
        for event in batch:
            event.size = 300
        feed.extend(batch)
        events += batch
    assert store.reads == 0
    assert await feed.read(148, 100) == events[148:]
    assert store.reads == 0
    assert await feed.read(100, 200) == events[100:]
    assert store.reads == 1
    one = stored(store, 1)
    one[0].size = 5_000
    feed.extend(one)
    assert await feed.read(150, 100) == one
    assert store.reads == 1
