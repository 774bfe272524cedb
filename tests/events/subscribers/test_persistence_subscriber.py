import asyncio
import logging
from collections.abc import Callable

import pytest

from agent_runtime.events.agent_events import AgentSwitchedEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.session_events import MessageAddedEvent, SessionCreatedEvent, SessionUpdatedEvent
from agent_runtime.events.subscribers.persistence_subscriber import PersistenceSubscriber


class Disk:
    """Where sessions are saved, one by one; it can be broken, for some or for a while, and slow."""

    def __init__(self) -> None:
        self.saved: list[str] = []
        self.failures: dict[str, int] = {}
        self.meanwhile: Callable[[str], None] = lambda _: None
        self.writing = self.most = 0

    async def save(self, session_id: str) -> None:
        """Makes a session durable."""
        self.writing += 1
        self.most = max(self.most, self.writing)
        await asyncio.sleep(0)
        self.meanwhile(session_id)
        self.writing -= 1
        if self.failures.get(session_id, 0) > 0:
            self.failures[session_id] -= 1
            raise OSError("the disk is full")
        self.saved.append(session_id)


class Clock:
    """Time, as the test says."""

    now = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def disk() -> Disk:
    """An empty one."""
    return Disk()


@pytest.fixture
def clock() -> Clock:
    """It stands still."""
    return Clock()


@pytest.fixture
def subscriber(disk: Disk, clock: Clock) -> PersistenceSubscriber:
    """On ``disk`` and ``clock``; it flushes when it is told to."""
    return PersistenceSubscriber(disk.save, disk.save, clock=clock)


def added(session_id: str = "s-1") -> MessageAddedEvent:
    """A message joined a session."""
    return MessageAddedEvent(role="user", content_length=2, session_id=session_id)


async def test_what_makes_a_write(clock: Clock) -> None:
    """Updates and messages save the session, a switch its context; nothing else saves anything."""
    sessions, contexts, bus = Disk(), Disk(), EventBus()
    subscriber = PersistenceSubscriber(sessions.save, contexts.save, clock=clock)
    detach = subscriber.attach(bus)
    for event in (
        added("message"),
        SessionUpdatedEvent(update_type="title", session_id="update"),
        AgentSwitchedEvent(from_agent="a", to_agent="b", session_id="switch"),
        SessionCreatedEvent(session_id="created"),
        MessageAddedEvent(role="user", content_length=2),
    ):
        await bus.publish(event, wait_for_handlers=True)
    assert 3 == await subscriber.flush(everything=True)
    assert (["message", "update"], ["switch"]) == (sessions.saved, contexts.saved)
    detach()
    await bus.publish(added(), wait_for_handlers=True)
    assert 0 == subscriber.pending


async def test_attached_twice_it_writes_once(subscriber: PersistenceSubscriber, disk: Disk) -> None:
    """And runs at its place in the ladder."""
    bus = EventBus()
    subscriber.attach(bus)
    subscriber.attach(bus)
    assert [1, 1, 1] == [subscription.priority for subscription in bus.subscriptions]
    assert 0 == PersistenceSubscriber().pending


async def test_debouncing_delays_a_write_and_drops_none(
    subscriber: PersistenceSubscriber, disk: Disk, clock: Clock
) -> None:
    """2 s after the first of several events there is one write; further events do not move it."""
    subscriber.handle(added())
    clock.now += 1.9
    subscriber.handle(added())
    assert (0, []) == (await subscriber.flush(), disk.saved)
    clock.now += 0.1
    assert (1, ["s-1"], 0) == (await subscriber.flush(), disk.saved, subscriber.pending)
    subscriber.handle(added())
    assert 0 == await subscriber.flush()
    clock.now += 2
    assert (1, ["s-1", "s-1"]) == (await subscriber.flush(), disk.saved)


async def test_an_event_during_its_write_makes_another(
    subscriber: PersistenceSubscriber, disk: Disk, clock: Clock
) -> None:
    """Nobody knows whether the write had it already."""
    disk.meanwhile = lambda _: subscriber.handle(added()) if not disk.saved else None
    subscriber.handle(added())
    clock.now += 2
    assert (1, 1) == (await subscriber.flush(), subscriber.pending)
    clock.now += 2
    assert (1, 0, ["s-1", "s-1"]) == (await subscriber.flush(), subscriber.pending, disk.saved)


async def test_a_failed_write_is_tried_again(
    subscriber: PersistenceSubscriber, disk: Disk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and keeps no other from being written."""
    disk.failures = {"s-1": 2}
    for session_id in ("s-1", "s-2"):
        subscriber.handle(added(session_id))
    with caplog.at_level(logging.ERROR, "agent_runtime.persistence"):
        for _ in range(3):
            clock.now += 2
            await subscriber.flush()
    assert (["s-2", "s-1"], 0) == (disk.saved, subscriber.pending)
    assert 2 == sum("session s-1 could not be saved" in record.getMessage() for record in caplog.records)


async def test_120_sessions_are_all_saved_at_the_end(subscriber: PersistenceSubscriber, disk: Disk) -> None:
    """None of them was due; 50 are written at a time, and the rest is not forgotten."""
    subscriber.start()
    sessions = [f"s-{number}" for number in range(120)]
    for session_id in sessions:
        subscriber.handle(added(session_id))
    assert 0 == await subscriber.stop()
    assert (sorted(sessions), 50) == (sorted(disk.saved), disk.most)


async def test_the_end_tries_again_what_fails(subscriber: PersistenceSubscriber, disk: Disk) -> None:
    """And takes in what comes meanwhile."""
    disk.failures = {f"s-{number}": 1 for number in range(0, 120, 3)}
    disk.meanwhile = lambda session_id: subscriber.handle(added("late")) if session_id == "s-0" else None
    for number in range(120):
        subscriber.handle(added(f"s-{number}"))
    assert 0 == await subscriber.stop()
    assert {"late", *(f"s-{number}" for number in range(120))} == set(disk.saved)


async def test_the_end_has_an_end(
    subscriber: PersistenceSubscriber, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever can't be saved within its time is named as lost."""
    disk.failures = {"s-1": 10**9}
    for session_id in ("s-1", "s-2"):
        subscriber.handle(added(session_id))
    with caplog.at_level(logging.CRITICAL, "agent_runtime.persistence"):
        assert 1 == await subscriber.stop(timeout=0.3)
    assert ["s-2"] == disk.saved
    assert ["persistence_subscriber stopped with 1 sessions that could not be saved"] == [
        record.getMessage() for record in caplog.records
    ]


async def test_a_write_that_hangs_does_not_hold_up_the_end() -> None:
    """What hangs stays pending."""

    async def hang(_: str) -> None:
        await asyncio.Event().wait()

    subscriber = PersistenceSubscriber(hang, debounce_seconds=0, flush_seconds=0.01)
    subscriber.handle(added())
    subscriber.start()
    await asyncio.sleep(0.05)
    assert 1 == await subscriber.stop(timeout=0.2)


async def test_it_flushes_by_itself(disk: Disk) -> None:
    """Once it is started, over a bus, until it is stopped."""
    bus = EventBus()
    subscriber = PersistenceSubscriber(disk.save, debounce_seconds=0.01, flush_seconds=0.01)
    subscriber.attach(bus)
    subscriber.start()
    for number in range(120):
        await bus.publish(added(f"s-{number}"))
    async with asyncio.timeout(10):
        while len(disk.saved) < 120:
            await asyncio.sleep(0.01)
    assert 0 == await subscriber.stop()
    assert sorted(f"s-{number}" for number in range(120)) == sorted(disk.saved)
