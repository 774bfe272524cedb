import asyncio
import logging
from typing import Any

import pytest

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.errors import BusClosed
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.session_events import SessionUpdatedEvent
from agent_runtime.tools import ToolError, ToolExecutor, ToolRegistry, ToolResult

TRACE = "0d8cd124faa6d6e1d51183a9e11115eb"
CAUSE = "0193b7c1-7e5a-7000-8000-000000000001"
SECRET = "sk-abcdefghijklmnopqrstuvwx"


def shout(text: str) -> str:
    """Shout.

    Args:
        text: what.
    """
    return text.upper()


def refuse() -> str:
    """Refuse."""
    raise ToolError("not_found", f"does not exist, {SECRET}", where="notes.md")


def break_down() -> str:
    """Break down."""
    raise ZeroDivisionError(f"of {SECRET}")


def babble() -> str:
    """Say what no store takes."""
    return "a\0b\ud800c"


async def wait() -> str:
    """Wait for ever."""
    await asyncio.Event().wait()
    return "never"


@pytest.fixture
def bus() -> EventBus:
    """A bus of its own."""
    return EventBus()


@pytest.fixture
def executor(bus: EventBus) -> ToolExecutor:
    """An executor of this module's tools."""
    return ToolExecutor(bus, ToolRegistry([shout, refuse, break_down, babble, wait]), max_result_characters=20)


async def execute(executor: ToolExecutor, tool_name: Any, call_id: Any = "call-1", **arguments: Any) -> ToolResult:
    """One call."""
    return await executor.execute(
        session_id="s-1", agent="coder", tool_name=tool_name, call_id=call_id, arguments=arguments
    )


async def test_a_call_that_works(bus: EventBus, executor: ToolExecutor) -> None:
    """Its start is caused by what is current, its end by the start; both in the turn; neither holds content."""
    EventCorrelation.set_correlation_id(TRACE)
    EventCorrelation.set_causation_id(CAUSE)
    with bus.capture_events() as events:
        result = await execute(executor, "shout", text="hello")
    started, completed = events
    assert ToolResult(True, "HELLO", event_id=completed.event_id) == result
    assert ["tool_execution_started", "tool_execution_completed"] == [event.event_type for event in events]
    assert [CAUSE, started.event_id] == [event.causation_id for event in events]
    assert [("s-1", TRACE)] * 2 == [(event.session_id, event.correlation_id) for event in events]
    assert {"tool_name": "shout", "call_id": "call-1"} == started.data
    assert 0 <= completed.data.pop("duration_ms")
    assert {"tool_name": "shout", "call_id": "call-1", "result_length": 5} == completed.data
    assert CAUSE == EventCorrelation.get_causation_id()


async def test_what_a_tool_publishes_is_caused_by_its_start(bus: EventBus) -> None:
    """In a thread as on the loop."""
    seen: list[str | None] = []

    async def here() -> str:
        """On the loop."""
        seen.append(SessionUpdatedEvent(update_type="x").causation_id)
        return ""

    def there() -> str:
        """In a thread."""
        seen.append(SessionUpdatedEvent(update_type="x").causation_id)
        return ""

    executor = ToolExecutor(bus, ToolRegistry([here, there]))
    with bus.capture_events() as events:
        await execute(executor, "here")
        await execute(executor, "there")
    assert [events[0].event_id, events[2].event_id] == seen


@pytest.mark.parametrize(
    ("tool_name", "arguments", "error_type", "message", "content"),
    [
        ("refuse", {}, "not_found", "does not exist, [redacted]", None),
        ("break_down", {}, "ZeroDivisionError", "the tool has a fault", "the tool has a fault"),
        ("none", {"a": SECRET}, "unknown_tool", "there is no such tool", "none: there is no such"),
        ("shout", {"text": 5}, "invalid_arguments", "text: input should be a valid string", None),
        (
            "shout",
            {SECRET: 5},
            "invalid_arguments",
            "text: field required; there is an argument that is not one of text",
            None,
        ),
    ],
)
async def test_a_call_that_fails(
    bus: EventBus, tool_name: str, arguments: dict[str, Any], error_type: str, message: str, content: str | None
) -> None:
    """Whatever the reason: a start, a failure with a short type, no secret in it, and a result instead of an error."""
    executor = ToolExecutor(bus, ToolRegistry([shout, refuse, break_down]))
    with bus.capture_events() as events:
        result = await execute(executor, tool_name, **arguments)
    started, failed = events
    assert (False, error_type, failed.event_id) == (result.ok, result.error_type, result.event_id)
    assert ["tool_execution_started", "tool_execution_failed"] == [event.event_type for event in events]
    assert 0 <= failed.data.pop("duration_ms")
    expected = {"tool_name": tool_name, "call_id": "call-1", "error_type": error_type, "error_message": message}
    assert (expected, started.event_id) == (failed.data, failed.causation_id)
    assert content is None or result.content.startswith(content)
    assert SECRET not in "".join(event.to_json() for event in events)


async def test_the_log_names_the_place_and_not_the_words(
    executor: ToolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of a tool can be found, and its message stays out of the log."""
    with caplog.at_level(logging.DEBUG):
        await execute(executor, "break_down")
    (record,) = [record for record in caplog.records if record.name == "agent_runtime.tools"]
    assert "tool break_down raised ZeroDivisionError at " in record.getMessage()
    assert __file__ in record.getMessage()
    assert SECRET not in caplog.text


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 257, "\ud800", None, 7])
async def test_names_that_no_event_can_carry(bus: EventBus, executor: ToolExecutor, name: Any) -> None:
    """What a model makes of a tool's name or a call's id stops nothing."""
    with bus.capture_events() as events:
        result = await execute(executor, name, call_id=name)
    assert "unknown_tool" == result.error_type
    assert [("invalid", "invalid")] * 2 == [(event.data["tool_name"], event.data["call_id"]) for event in events]


async def test_arguments_that_are_no_object(executor: ToolExecutor) -> None:
    """A list, a text or nothing at all is said to be wrong."""
    for arguments in ([], "text", None, 5):
        result = await executor.execute(
            session_id=None,
            agent=None,
            tool_name="shout",
            call_id="c",
            arguments=arguments,  # type: ignore[arg-type]
        )
        assert "invalid_arguments" == result.error_type


async def test_results_are_presentable(bus: EventBus, executor: ToolExecutor) -> None:
    """Without what a store refuses, and no longer than allowed; the length in the event is that of the result."""
    assert "a\ufffdb?c" == (await execute(executor, "babble")).content
    with bus.capture_events() as events:
        result = await execute(executor, "shout", text="a" * 30 + "b" * 30)
    assert f"{'A' * 10}\n… [40 characters left out] …\n{'B' * 10}" == result.content
    assert len(result.content) == events[-1].data["result_length"]
    assert "B" * 20 == (await execute(executor, "shout", text="b" * 20)).content


async def test_a_cancelled_call_is_recorded_and_cancelled(bus: EventBus, executor: ToolExecutor) -> None:
    """The caller is cancelled as it wants to be, and the start does not stay without an end."""
    running = asyncio.Event()
    bus.subscribe("tool_execution_started", handler=lambda event: running.set())
    with bus.capture_events() as events:
        task = asyncio.create_task(execute(executor, "wait"))
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ["tool_execution_started", "tool_execution_failed"] == [event.event_type for event in events]
    assert "cancelled" == events[-1].data["error_type"]


async def test_calls_at_once_are_told_apart(bus: EventBus, executor: ToolExecutor) -> None:
    """Ten calls of one answer: each end is caused by its own start, and the caller's cause is left as it was."""
    EventCorrelation.set_causation_id(CAUSE)
    with bus.capture_events() as events:
        results = await asyncio.gather(*(execute(executor, "shout", f"call-{n}", text=f"t{n}") for n in range(10)))
    assert [f"T{n}" for n in range(10)] == [result.content for result in results]
    by_id: dict[str, BaseEvent] = {event.event_id: event for event in events}
    ends = [event for event in events if event.event_type == "tool_execution_completed"]
    assert 10 == len(ends)
    assert [end.data["call_id"] for end in ends] == [by_id[end.causation_id].data["call_id"] for end in ends]
    assert CAUSE == EventCorrelation.get_causation_id()


async def test_nothing_runs_unrecorded(bus: EventBus) -> None:
    """On a bus that takes no more events no tool is run."""
    ran: list[str] = []

    def act() -> str:
        """Act."""
        ran.append("ran")
        return ""

    await bus.close()
    with pytest.raises(BusClosed):
        await execute(ToolExecutor(bus, ToolRegistry([act])), "act")
    assert [] == ran
