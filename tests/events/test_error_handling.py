import asyncio
import functools
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.events.agent_events import AgentRegisteredEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.domain_events import SessionCreated
from agent_runtime.events.error_handling import EventHandlerWithRetry
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventType
from agent_runtime.events.parsing import parse_event
from agent_runtime.events.store.sqlite import SqliteStore


def event() -> BaseEvent:
    """Any event."""
    return AgentRegisteredEvent(agent_type="coder")


class Failing:
    """A handler that fails ``times`` times, then succeeds."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.events: list[Any] = []

    async def __call__(self, event: Any) -> str:
        """Handles, or fails."""
        self.events.append(event)
        if len(self.events) <= self.times:
            raise RuntimeError(f"failure {len(self.events)}")
        return "done"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it was slept, without sleeping."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("agent_runtime.events.error_handling.asyncio.sleep", note)
    return slept


async def test_a_handler_is_tried_again_until_it_succeeds(pauses: list[float]) -> None:
    """max_retries counts all attempts, and the pause grows with the number of the attempt."""
    bus, handler = EventBus(), Failing(2)
    bus.subscribe(handler=EventHandlerWithRetry(handler, max_retries=3, retry_delay=1.0))
    assert await bus.publish(event(), wait_for_handlers=True) == ["done"]
    assert (len(handler.events), pauses) == (3, [1.0, 2.0])
    stats = bus.get_stats()
    assert (stats.successful_handlers, stats.failed_handlers, stats.dead_letters) == (1, 0, 0)


async def test_what_can_not_be_saved_is_dead_lettered_and_raised_to_the_bus(pauses: list[float]) -> None:
    """After the last attempt there is one dead letter, one failed handler, and no further pause."""
    bus, handler, lost = EventBus(), Failing(99), event()
    bus.subscribe(handler=EventHandlerWithRetry(handler, max_retries=3, retry_delay=0.5))
    assert await bus.publish(lost, wait_for_handlers=True) == [None]
    assert (len(handler.events), pauses) == (3, [0.5, 1.0])
    stats = bus.get_stats()
    assert (stats.successful_handlers, stats.failed_handlers, stats.dead_letters) == (0, 1, 1)
    (letter,) = bus.store.dead_letters()
    assert (letter.queue, letter.event_id, letter.attempts) == ("handlers", lost.event_id, 3)
    assert letter.error == "RuntimeError: failure 3"
    assert letter.consumer.endswith("Failing")
    assert parse_event(letter.payload) == lost


async def test_as_a_decorator_under_a_subscription(pauses: list[float]) -> None:
    """The decorated function is subscribed with its retries, and dead letters carry the function's own name."""
    bus, calls = EventBus(), []

    @bus.subscribe(event_type=EventType.AGENT_REGISTERED)
    @EventHandlerWithRetry(max_retries=2)
    async def handle(event: Any) -> None:
        calls.append(event)
        raise RuntimeError("broken")

    await bus.publish(event(), wait_for_handlers=True)
    assert (len(calls), pauses) == (2, [1.0])
    assert bus.store.dead_letters()[0].consumer.endswith("handle")
    assert isinstance(handle, EventHandlerWithRetry)
    with pytest.raises(RuntimeError, match="broken"):
        await handle(event())


async def test_around_plain_functions_methods_and_partials(pauses: list[float]) -> None:
    """Whatever the bus takes can be wrapped."""
    seen: list[Any] = []

    class Subscriber:
        def handle(self, event: Any) -> str:
            seen.append(event)
            return "method"

    async def with_argument(argument: str, event: Any) -> str:
        return argument

    bus = EventBus()
    for handler in (lambda event: "plain", Subscriber().handle, functools.partial(with_argument, "partial")):
        bus.subscribe(handler=EventHandlerWithRetry(handler))
    assert await bus.publish(event(), wait_for_handlers=True) == ["plain", "method", "partial"]
    assert (len(seen), pauses) == (1, [])


async def test_one_attempt_means_no_retry(pauses: list[float]) -> None:
    """The least that max_retries can be."""
    bus, handler = EventBus(), Failing(99)
    bus.subscribe(handler=EventHandlerWithRetry(handler, max_retries=1))
    await bus.publish(event(), wait_for_handlers=True)
    assert (len(handler.events), pauses) == (1, [])


@pytest.mark.parametrize("options", [{"max_retries": 0}, {"max_retries": -1}, {"retry_delay": -0.1}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """The mistake shows where it is made."""
    with pytest.raises(ValueError, match=r"max_retries|retry_delay"):
        EventHandlerWithRetry(Failing(0), **options)


async def test_the_others_are_not_held_up_by_a_handler_that_retries() -> None:
    """While one waits for its next attempt, the publisher goes on and the other handlers have their events."""
    bus, first, others = EventBus(), event(), []
    gate = asyncio.Event()

    async def waits(event: Any) -> None:
        if not gate.is_set():
            await gate.wait()
            raise RuntimeError("once")

    bus.subscribe(handler=EventHandlerWithRetry(waits, max_retries=2, retry_delay=0), priority=10)
    bus.subscribe(handler=others.append)
    await bus.publish(first)
    await bus.publish(event())
    while len(others) < 2:
        await asyncio.sleep(0)
    gate.set()
    assert await bus.drain()
    stats = bus.get_stats()
    assert (others[0], stats.successful_handlers, stats.failed_handlers) == (first, 4, 0)


def test_dead_letters_outlive_the_process_and_are_retried(tmp_path: Path) -> None:
    """Kept in the file, listed after it is opened again, given to the handler of that name once more, and then gone."""
    path, lost = tmp_path / "events.db", [event(), SessionCreated(session_id="s")]
    repaired, got = False, []

    async def fragile(event: Any) -> None:
        if not repaired:
            raise RuntimeError("broken")
        got.append(event)

    async def first_life() -> None:
        store = SqliteStore(path)
        bus = EventBus(store)
        bus.subscribe(handler=EventHandlerWithRetry(fragile, max_retries=2, retry_delay=0))
        for each in lost:
            await bus.publish(each)  # type: ignore[arg-type]
        assert await bus.close()
        store.close()

    async def second_life() -> None:
        store = SqliteStore(path)
        bus = EventBus(store)
        letters = store.dead_letters()
        assert [letter.event_id for letter in letters] == [each.event_id for each in lost]
        assert bus.get_stats().dead_letters == 2
        with pytest.raises(LookupError, match="no subscriber"):
            await bus.retry_dead_letter(letters[0].letter_id)
        bus.subscribe(handler=EventHandlerWithRetry(fragile, max_retries=1))
        with pytest.raises(LookupError, match="no dead letter 99"):
            await bus.retry_dead_letter(99)
        for letter in letters:
            assert await bus.retry_dead_letter(letter.letter_id)
        assert store.dead_letters() == []
        store.close()

    asyncio.run(first_life())
    repaired = True
    asyncio.run(second_life())
    assert got == lost


async def test_a_retry_that_fails_again_leaves_one_letter() -> None:
    """Trying in vain does not breed letters."""
    bus, handler = EventBus(), Failing(99)
    bus.subscribe(handler=EventHandlerWithRetry(handler, max_retries=1))
    await bus.publish(event(), wait_for_handlers=True)
    (letter,) = bus.store.dead_letters()
    assert not await bus.retry_dead_letter(letter.letter_id)
    assert len(bus.store.dead_letters()) == 1


async def test_a_named_subscription_finds_its_letters_again() -> None:
    """The letter bears the subscription's name, which is what a retry looks for."""
    bus, handler = EventBus(), Failing(1)
    bus.subscribe(handler=EventHandlerWithRetry(handler, max_retries=1), name="billing")
    await bus.publish(event(), wait_for_handlers=True)
    (letter,) = bus.store.dead_letters()
    assert letter.consumer == "billing"
    assert await bus.retry_dead_letter(letter.letter_id)
    assert bus.store.dead_letters() == []
