import asyncio
import gc
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any

import anyio
import pytest

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.event_bus import EventBus
from agent_runtime.llm.client import Answer, LLMError, Message, TextDelta, ToolCall, Usage
from agent_runtime.llm.scripted import ScriptedClient
from agent_runtime.llm.stream_service import LLMStreamService

CORRELATION = "0123456789abcdef0123456789abcdef"
CAUSE = "01890000-0000-7000-8000-000000000001"
ANSWER = Answer("Hello", (ToolCall("c1", "echo", "{}"),), Usage(10, 5, 15, 8), "tool_calls")
HELLO = (TextDelta(""), TextDelta("Hel"), TextDelta("lo"), ANSWER)
TURN: dict[str, Any] = {
    "session_id": "s1",
    "agent": "coder",
    "model": "small",
    "messages": [{"role": "user", "content": "private words"}],
    "tools": [],
}


class Recital:
    """A model that says what it was given, waits for ever at None, and raises what is an exception."""

    provider = "recital"

    def __init__(self, *items: TextDelta | Answer | Exception | None) -> None:
        self._items = items
        self.closed = 0

    async def stream(
        self, *, model: str, messages: Sequence[Message], tools: Sequence[Message]
    ) -> AsyncGenerator[TextDelta | Answer, None]:
        """See ``LLMClient``."""
        try:
            for item in self._items:
                if item is None:
                    await asyncio.Event().wait()
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        """See ``LLMClient``."""


@pytest.fixture
def bus() -> EventBus:
    """A bus, under a turn that has begun."""
    EventCorrelation.set_correlation_id(CORRELATION)
    EventCorrelation.set_causation_id(CAUSE)
    return EventBus()


async def consume(bus: EventBus, client: Recital) -> list[TextDelta | Answer]:
    """Everything that one call streams."""
    async with aclosing(LLMStreamService(bus, client).stream(**TURN)) as stream:
        return [item async for item in stream]


def published(bus: EventBus) -> list[BaseEvent]:
    """All events, oldest first."""
    return bus.store.read(0, 1000)


def kinds(bus: EventBus) -> list[tuple[str, str | None]]:
    """Type and error type of all events, oldest first."""
    return [(str(event.event_type), event.data.get("error_type")) for event in published(bus)]


COMPLETED = [("llm_request_started", None), ("llm_request_completed", None)]


def failed(error_type: str) -> list[tuple[str, str | None]]:
    """A call that failed."""
    return [("llm_request_started", None), ("llm_request_failed", error_type)]


async def test_the_stream_is_the_clients(bus: EventBus) -> None:
    """Texts and answer pass through; the empty text that only says that something has come does not."""
    assert [TextDelta("Hel"), TextDelta("lo"), ANSWER] == await consume(bus, Recital(*HELLO))


async def test_a_call_is_told_by_two_events(bus: EventBus) -> None:
    """Start and end carry the request, its agent, its tokens and its times."""
    await consume(bus, Recital(*HELLO))

    started, completed = published(bus)
    request_id = started.data["request_id"]
    times = [completed.data.pop(name) for name in ("time_to_first_chunk_ms", "duration_ms")]
    assert {
        "model": "small",
        "messages_count": 1,
        "tools_count": 0,
        "request_id": request_id,
        "provider": "recital",
        "agent": "coder",
    } == started.data
    assert {
        "model": "small",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "has_tool_calls": True,
        "request_id": request_id,
        "finish_reason": "tool_calls",
        "cached_tokens": 8,
        "agent": "coder",
    } == completed.data
    assert times == sorted(times)


async def test_the_first_chunk_counts_though_it_has_no_text(bus: EventBus) -> None:
    """An answer of tool calls alone has a time of its first chunk as well, and not the time of its end."""
    await consume(bus, Recital(TextDelta(""), ANSWER))

    data = published(bus)[1].data
    assert data["time_to_first_chunk_ms"] < data["duration_ms"]


async def test_the_events_are_links_of_the_turn(bus: EventBus) -> None:
    """The start follows from the current cause, the end from the start, and what comes after it from the end."""
    await consume(bus, Recital(*HELLO))

    started, ended = published(bus)
    expected = [("s1", CORRELATION, CAUSE), ("s1", CORRELATION, started.event_id), ended.event_id]
    links = [(event.session_id, event.correlation_id, event.causation_id) for event in (started, ended)]
    assert expected == [*links, EventCorrelation.get_causation_id()]


async def test_a_failed_call_is_a_failed_request(bus: EventBus) -> None:
    """The caller gets the error, the event says which it was and how long it took."""
    with pytest.raises(LLMError, match="no luck"):
        await consume(bus, Recital(TextDelta("Hel"), LLMError("server_error", "no luck")))

    started, ended = published(bus)
    duration_ms = ended.data.pop("duration_ms")
    assert duration_ms > 0
    assert {
        "model": "small",
        "error": "no luck",
        "error_type": "server_error",
        "request_id": started.data["request_id"],
        "agent": "coder",
    } == ended.data
    assert [started.event_id, ended.event_id] == [ended.causation_id, EventCorrelation.get_causation_id()]


async def test_an_error_of_unknown_make_shows_no_content(bus: EventBus) -> None:
    """Whatever else a client raises is told by its class alone."""
    with pytest.raises(KeyError):
        await consume(bus, Recital(KeyError("private words")))

    assert "KeyError while the model was called" == published(bus)[1].data["error"]


async def test_a_stream_without_an_answer_is_a_failed_call(bus: EventBus) -> None:
    """A client that just stops has not answered."""
    with pytest.raises(LLMError):
        await consume(bus, Recital(TextDelta("Hel")))

    assert failed("bad_answer") == kinds(bus)


async def test_a_consumer_that_leaves_cancels_the_call_once(bus: EventBus) -> None:
    """Leaving early closes the client's stream and is one failed request."""
    client = Recital(*HELLO)

    async with aclosing(LLMStreamService(bus, client).stream(**TURN)) as stream:
        async for _ in stream:
            break

    assert (failed("cancelled"), 1) == (kinds(bus), client.closed)


async def test_a_consumer_that_leaves_with_the_answer_has_an_answer(bus: EventBus) -> None:
    """The end is published before the answer is handed out, so nothing that happens then changes it."""
    client = Recital(*HELLO)

    async with aclosing(LLMStreamService(bus, client).stream(**TURN)) as stream:
        async for item in stream:
            if isinstance(item, Answer):
                assert COMPLETED == kinds(bus)
                break

    assert (COMPLETED, 1) == (kinds(bus), client.closed)


async def test_a_cancelled_consumer_cancels_the_call_once(bus: EventBus) -> None:
    """A task that is cancelled while it waits for the model stays cancelled, and the call is one failed request."""
    client = Recital(TextDelta("Hel"), None)
    task = asyncio.create_task(consume(bus, client))
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert (failed("cancelled"), 1) == (kinds(bus), client.closed)


async def test_a_consumer_that_is_cancelled_again_and_again_is_one_failed_call(bus: EventBus) -> None:
    """A cancel scope, such as a web server's, strikes at every wait; the end is published all the same, and once."""

    async def slow(event: BaseEvent) -> BaseEvent:
        await asyncio.sleep(0.01)
        return event

    bus.add_middleware(slow)
    client = Recital(TextDelta("Hel"), None)
    async with anyio.create_task_group() as group:
        group.start_soon(consume, bus, client)
        await asyncio.sleep(0.05)
        group.cancel_scope.cancel()
    async with asyncio.timeout(10):
        while len(kinds(bus)) < 2:
            await asyncio.sleep(0.01)

    await asyncio.sleep(0.05)
    assert (failed("cancelled"), 1, {asyncio.current_task()}) == (kinds(bus), client.closed, asyncio.all_tasks())


async def test_a_stream_that_nobody_closes_keeps_its_turn(bus: EventBus) -> None:
    """The garbage collector ends it in whatever context it runs; the event still belongs to its own turn."""
    client = Recital(*HELLO)
    stream = LLMStreamService(bus, client).stream(**TURN)
    await anext(stream)
    EventCorrelation.set_correlation_id("another")
    EventCorrelation.set_causation_id(None)
    del stream
    gc.collect()
    async with asyncio.timeout(10):
        while len(kinds(bus)) < 2:
            await asyncio.sleep(0.01)

    started, ended = published(bus)
    assert (CORRELATION, started.event_id, failed("cancelled")) == (
        ended.correlation_id,
        ended.causation_id,
        kinds(bus),
    )


async def test_a_stream_that_is_never_begun_is_no_call(bus: EventBus) -> None:
    """Nothing is published for a generator that was made and closed."""
    await LLMStreamService(bus, Recital(*HELLO)).stream(**TURN).aclose()

    assert [] == kinds(bus)


async def test_calls_at_once_are_told_apart(bus: EventBus) -> None:
    """Two calls of one session have two request ids, each with a start and an end."""
    await asyncio.gather(consume(bus, Recital(*HELLO)), consume(bus, Recital(*HELLO)))

    ids = [event.data["request_id"] for event in published(bus)]
    assert (4, [2, 2]) == (len(ids), [ids.count(each) for each in set(ids)])


async def test_a_closed_bus_does_not_hide_how_the_call_ended(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """If the end can't be published the caller still gets the model's error, and the log says so."""
    stream = LLMStreamService(bus, Recital(TextDelta("Hel"), LLMError("timeout", "too slow"))).stream(**TURN)
    await anext(stream)
    await bus.close()

    with pytest.raises(LLMError, match="too slow"):
        await anext(stream)

    assert ["agent_runtime.llm.stream_service"] == [record.name for record in caplog.records]


async def test_many_at_once_and_whoever_leaves_each_call_ends_once(bus: EventBus) -> None:
    """Two hundred streams, of which some leave early, some are cancelled and some fail: one end each, no task left."""
    service = LLMStreamService(bus, ScriptedClient(chunk_delay_seconds=0.001, failure_share=0.1, seed=1))
    chance = random.Random(1)

    async def session(number: int) -> None:
        EventCorrelation.set_correlation_id(f"{number:032x}")
        stay = chance.choice([1, 3, 1000])
        messages = [{"role": "user", "content": "What is a monad?"}]
        with suppress(LLMError):
            async with aclosing(service.stream(**{**TURN, "session_id": str(number), "messages": messages})) as stream:
                async for _ in stream:
                    stay -= 1
                    if not stay:
                        break

    tasks = [asyncio.create_task(session(number)) for number in range(200)]
    await asyncio.sleep(0.01)
    for task in tasks[::5]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    events = published(bus)
    starts = {event.data["request_id"]: event for event in events if event.event_type == "llm_request_started"}
    ends = [event for event in events if event.event_type != "llm_request_started"]
    assert sorted(starts) == sorted(event.data["request_id"] for event in ends)
    assert {"cancelled", "server_error", None} == {event.data.get("error_type") for event in ends}
    assert [starts[event.data["request_id"]].correlation_id for event in ends] == [e.correlation_id for e in ends]
    assert {asyncio.current_task()} == asyncio.all_tasks()
