"""Projections: wherever a run is interrupted, the state is that of folding everything once."""

import asyncio
import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.events.agent_events import AgentRegisteredEvent, AgentSwitchedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.errors import StoreError
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.projection import ProjectionRunner
from agent_runtime.events.store.base import EventStore
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.store.sqlite import SqliteStore
from tests.events.conftest import until


def events_of(count: int) -> list[BaseEvent]:
    """So many events of two types."""
    return [
        AgentRegisteredEvent(agent_type="a") if number % 3 else AgentSwitchedEvent(from_agent="a", to_agent="b")
        for number in range(count)
    ]


class Counting:
    """Counts events by type, and keeps a digest that depends on their order."""

    name = "counting"

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.counts: dict[str, int] = {}
        self.digest = 0
        self.settled_ns = 0
        self.chunks: list[int] = []

    def apply(self, events: Sequence[BaseEvent]) -> None:
        """Count."""
        self.chunks.append(len(events))
        for event in events:
            self.counts[event.event_type] = self.counts.get(event.event_type, 0) + 1
            self.digest = (self.digest * 31 + event.position) % (2**61 - 1)
            assert event.recorded_ns > self.settled_ns, "settled too early"

    def settle(self, now_ns: int) -> None:
        """Note it."""
        self.settled_ns = max(self.settled_ns, now_ns)

    def dump(self) -> bytes:
        """All that counts."""
        return json.dumps([self.counts, self.digest], sort_keys=True).encode()

    def load(self, state: bytes) -> None:
        """As it was."""
        self.counts, self.digest = json.loads(state)


def folded(events: Sequence[BaseEvent]) -> bytes:
    """The state after folding everything once, in one go."""
    projection = Counting()
    projection.apply(events)
    return projection.dump()


async def test_catches_up_and_follows(bus: EventBus) -> None:
    """What was there before it started, and what comes after, each once; lag is zero when it has all."""
    early, late = events_of(1_234), events_of(777)
    await bus.publish_many(early)
    projection = Counting()
    runner = ProjectionRunner(bus, projection)
    assert runner.lag_events == 1_234
    await runner.start()
    assert (projection.dump(), runner.lag_events, runner.position) == (folded(early), 0, 1_234)
    for event in late:
        await bus.publish(event)
    await until(lambda: runner.position == 2_011)
    assert runner.recorded_ns == late[-1].recorded_ns
    await runner.stop()
    assert projection.dump() == folded([*early, *late])
    assert max(projection.chunks) <= 500


async def test_settles_up_to_the_watermark(bus: EventBus) -> None:
    """While nothing comes, time goes on; and never past an event that is still to be folded (``apply`` looks)."""
    projection = Counting()
    runner = ProjectionRunner(bus, projection)
    await runner.start()
    for event in events_of(500):
        await bus.publish(event)
        if event.event_type == "agent_switched":
            await asyncio.sleep(0)
    await bus.publish_many(events_of(1))
    await until(lambda: runner.lag_events == 0 and projection.settled_ns > runner.recorded_ns)
    assert runner.failures == 0
    await runner.stop()


async def test_continues_at_its_checkpoint(bus: EventBus) -> None:
    """A second run folds only what came since."""
    first, second = events_of(800), events_of(50)
    await bus.publish_many(first)
    runner = ProjectionRunner(bus, Counting())
    await runner.start()
    await runner.stop()
    await bus.publish_many(second)
    projection = Counting()
    runner = ProjectionRunner(bus, projection)
    await runner.start()
    await runner.stop()
    assert projection.chunks == [50]
    assert projection.dump() == folded([*first, *second])


@pytest.mark.parametrize("seed", range(5))
async def test_killed_anywhere_and_folded_again_is_the_same(bus: EventBus, seed: int) -> None:
    """Runs that end without notice between any two chunks, some of them behind a checkpoint: the state is exact."""
    rng = random.Random(seed)
    everything: list[BaseEvent] = []
    for _ in range(8):
        more = events_of(rng.randrange(1, 1_500))
        await bus.publish_many(more)
        everything += more
        killed = ProjectionRunner(bus, Counting())
        killed.restore()
        for _ in range(rng.randrange(4)):
            await killed.step()
            if rng.random() < 0.5:
                await killed.checkpoint()
    survivor = Counting()
    runner = ProjectionRunner(bus, survivor)
    await runner.start()
    await runner.stop()
    assert survivor.dump() == folded(everything)
    state = bus.store.load_checkpoint("counting")
    assert state == (len(everything), b"1\n" + folded(everything))


def test_restart_after_the_process_is_gone(tmp_path: Path) -> None:
    """Through the file, in another life of the store."""
    everything = events_of(1_700)
    states = []

    async def life(events: list[BaseEvent]) -> None:
        store = SqliteStore(tmp_path / "events.db", "NORMAL")
        bus, projection = EventBus(store), Counting()
        runner = ProjectionRunner(bus, projection)
        await runner.start()
        await bus.publish_many(events)
        await runner.stop()
        states.append(projection.dump())
        await bus.close()
        store.close()

    asyncio.run(life(everything[:900]))
    asyncio.run(life(everything[900:]))
    assert states == [folded(everything[:900]), folded(everything)]


async def test_another_version_folds_everything_again(bus: EventBus) -> None:
    """A changed definition applies to all events there are, and its checkpoint replaces the old one."""
    events = events_of(600)
    await bus.publish_many(events)
    for version, expected_chunks in (("1", [500, 100]), ("2", [500, 100]), ("2", [])):
        projection = Counting(version)
        runner = ProjectionRunner(bus, projection)
        await runner.start()
        await runner.stop()
        assert (projection.chunks, projection.dump()) == (expected_chunks, folded(events))
    assert bus.store.load_checkpoint("counting") == (600, b"2\n" + folded(events))


async def test_a_checkpoint_of_another_store_is_not_taken() -> None:
    """It stands at a position that this store does not have: everything is folded again."""
    store = MemoryStore()
    store.save_checkpoint("counting", 5_000, b'1\n[{"agent_switched": 5000}, 7]')
    bus, projection = EventBus(store), Counting()
    events = events_of(10)
    await bus.publish_many(events)
    runner = ProjectionRunner(bus, projection)
    await runner.start()
    await runner.stop()
    assert projection.dump() == folded(events)


async def test_checkpoints_while_it_follows_and_while_it_catches_up(bus: EventBus) -> None:
    """Every so often by itself, so that little has to be folded again; none if nothing changed."""
    await bus.publish_many(events_of(5_000))
    saved: list[int] = []
    save = bus.store.save_checkpoint

    def note(name: str, position: int, state: bytes) -> None:
        saved.append(position)
        save(name, position, state)

    bus.store.save_checkpoint = note  # type: ignore[method-assign]
    runner = ProjectionRunner(bus, Counting(), checkpoint_seconds=0.0)
    await runner.start()
    assert saved[:3] == [500, 1_000, 1_500]
    await bus.publish_many(events_of(1))
    await until(lambda: saved[-1] == 5_001)
    await runner.stop()
    assert saved == sorted(set(saved))


class Broken(Counting):
    """Breaks on its second chunk, half-way."""

    def apply(self, events: Sequence[BaseEvent]) -> None:
        """Count, or break."""
        if len(self.chunks) == 1:
            super().apply(events[:10])
            raise RuntimeError("a bug")
        super().apply(events)


async def test_a_projection_that_breaks_counts_nothing_twice(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """The chunk it broke on is passed over, with a log line and a figure; it goes on behind it."""
    projection = Broken()
    runner = ProjectionRunner(bus, projection)
    await runner.start()
    for _ in range(3):
        await bus.publish_many(events_of(30))
        await until(lambda: runner.lag_events == 0)
    await runner.stop()
    assert (sum(projection.counts.values()), runner.failures) == (30 + 10 + 30, 1)
    assert "projection counting broke behind position 30" in caplog.text


class Flaky(MemoryStore):
    """A store on a disk whose reads fail for a while."""

    blocking = True
    failing = False

    def read(self, after: int, limit: int) -> list[BaseEvent]:
        """Read or fail."""
        if self.failing:
            raise StoreError("can't read")
        return super().read(after, limit)


async def test_a_store_that_can_not_be_read_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It neither dies nor loses its place."""
    store = Flaky()
    bus, projection = EventBus(store), Counting()
    runner = ProjectionRunner(bus, projection)
    await runner.start()
    store.failing = True
    events = events_of(20)
    store.append(events)  # not through the bus: so they have to be read
    await until(lambda: not bus.feed.followers)
    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger("agent_runtime.events"), "disabled", True)
        await asyncio.sleep(0.6)
    store.failing = False
    await until(lambda: runner.lag_events == 0)
    await runner.stop()
    assert projection.dump() == folded(events)


async def test_does_not_starve_the_loop(bus: EventBus) -> None:
    """While it catches up others get their turns."""
    await bus.publish_many(events_of(5_000))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    runner = ProjectionRunner(bus, Counting())
    await runner.start()
    task.cancel()
    await runner.stop()
    assert turns >= 10


async def test_started_again_after_a_stop(bus: EventBus) -> None:
    """It follows as the first time."""
    projection = Counting()
    runner = ProjectionRunner(bus, projection)
    for count in (1, 2):
        await runner.start()
        await bus.publish_many(events_of(10))
        await until(lambda count=count: runner.position == 10 * count)  # type: ignore[misc]
        await runner.stop()
    assert sum(projection.counts.values()) == 20


async def test_stop_without_start(store: EventStore) -> None:
    """Does nothing."""
    await ProjectionRunner(EventBus(store), Counting()).stop()
    assert store.load_checkpoint("counting") is None


def test_any_projection(tmp_path: Path) -> None:
    """The folding subscribers of the package are projections, too: they keep their state through a restart."""
    from agent_runtime.events.subscribers.metrics_collector import MetricsCollector

    states: list[Any] = []

    async def life() -> None:
        store = SqliteStore(tmp_path / "events.db", "NORMAL")
        bus, collector = EventBus(store), MetricsCollector()
        runner = ProjectionRunner(bus, collector)
        await runner.start()
        await bus.publish_many(events_of(9))
        await runner.stop()
        states.append(collector.get_metrics()["agent_switches"])
        await bus.close()
        store.close()

    asyncio.run(life())
    asyncio.run(life())
    assert states == [{"a_to_b": 3}, {"a_to_b": 6}]
