import inspect
import json
import math
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.events.agent_events import (
    AgentErrorOccurredEvent,
    AgentProcessingCompletedEvent,
    AgentProcessingStartedEvent,
    AgentRegisteredEvent,
    AgentSwitchedEvent,
)
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.content import content_capture
from agent_runtime.events.correlation import NO_CONTEXT, EventCorrelation, current
from agent_runtime.events.errors import EventsError, InvalidEvent
from agent_runtime.events.event_types import CATEGORY_OF, EventType
from agent_runtime.events.llm_events import LLMRequestCompletedEvent, LLMRequestFailedEvent, LLMRequestStartedEvent
from agent_runtime.events.parsing import CLASS_OF, parse_event
from agent_runtime.events.session_events import (
    MessageAddedEvent,
    SessionCreatedEvent,
    SessionDeletedEvent,
    SessionUpdatedEvent,
)
from agent_runtime.events.system_events import (
    BackgroundTaskCompletedEvent,
    BackgroundTaskStartedEvent,
    DatabaseQueryExecutedEvent,
    MetricsCollectedEvent,
    PerformanceMeasuredEvent,
    SystemShutdownEvent,
    SystemStartupEvent,
)
from agent_runtime.events.tool_events import (
    HITLApprovalRequestedEvent,
    HITLDecisionMadeEvent,
    HITLTimeoutOccurredEvent,
    ToolApprovalRequiredEvent,
    ToolExecutedEvent,
    ToolExecutionCompletedEvent,
    ToolExecutionFailedEvent,
    ToolExecutionRequestedEvent,
    ToolExecutionStartedEvent,
)

TEN_KEYS = [
    "event_id",
    "event_type",
    "event_category",
    "timestamp",
    "session_id",
    "correlation_id",
    "causation_id",
    "data",
    "source",
    "version",
]
ID = "0198c0de-0000-7000-8000-000000000001"


@pytest.fixture(autouse=True)
def no_context() -> Iterator[None]:
    """Nothing is inherited from another test."""
    token = current.set(NO_CONTEXT)
    yield
    current.reset(token)


# -- what the constructors make ---------------------------------------------------------------------

# (class, keywords that say everything, the data they give, keywords that say the least, the keys that differ then)
CONSTRUCTED: list[tuple[type[BaseEvent], dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = []


def row(
    kind: type[BaseEvent],
    keywords: dict[str, Any],
    data: dict[str, Any] | None = None,
    *,
    least: tuple[str, ...] | None = None,
    defaults: dict[str, Any] | None = None,
) -> None:
    """A row of the contract's table. ``data`` is the keywords themselves where nothing else is said."""
    data = keywords if data is None else data
    required = keywords if least is None else {name: keywords[name] for name in least}
    CONSTRUCTED.append((kind, keywords, data, required, {**data, **(defaults or {})}))


ARGS = {"path": "test.py", "n": [1, {"deep": None}]}
row(
    AgentSwitchedEvent,
    {"from_agent": "orchestrator", "to_agent": "coder", "reason": "code", "confidence": "high"},
    least=("from_agent", "to_agent", "reason"),
    defaults={"confidence": None},
)
row(AgentProcessingStartedEvent, {"agent_type": "coder", "message": "Привет"}, {"agent": "coder", "message_length": 6})
row(
    AgentProcessingCompletedEvent,
    {"agent_type": "coder", "duration_ms": 1500.5, "success": False},
    {"agent": "coder", "duration_ms": 1500.5, "success": False},
)
row(
    AgentErrorOccurredEvent,
    {"agent_type": "coder", "error_message": "no file", "error_type": "FileNotFoundError"},
    {"agent": "coder", "error_message": "no file", "error_type": "FileNotFoundError"},
)
row(AgentRegisteredEvent, {"agent_type": "coder"}, {"agent": "coder"})
row(ToolExecutionRequestedEvent, {"tool_name": "write_file", "arguments": ARGS, "call_id": "c", "agent": "coder"})
row(ToolExecutionStartedEvent, {"tool_name": "write_file", "call_id": "c"})
row(ToolExecutionCompletedEvent, {"tool_name": "write_file", "call_id": "c", "duration_ms": 1.5, "result_length": 7})
row(
    ToolExecutionFailedEvent,
    {"tool_name": "t", "call_id": "c", "error_message": "m", "error_type": "OSError", "duration_ms": 2},
    least=("tool_name", "call_id", "error_message", "error_type"),
    defaults={"duration_ms": None},
)
row(ToolApprovalRequiredEvent, {"tool_name": "t", "arguments": ARGS, "call_id": "c", "reason": "policy"})
row(
    HITLApprovalRequestedEvent,
    {"call_id": "c", "tool_name": "t", "arguments": ARGS, "reason": "policy", "timeout_seconds": 60},
    least=("call_id", "tool_name", "arguments", "reason"),
    defaults={"timeout_seconds": 300},
)
row(
    HITLDecisionMadeEvent,
    {"call_id": "c", "decision": "edit", "tool_name": "t", "original_args": ARGS, "modified_args": {"path": "b"}},
    least=("call_id", "decision", "tool_name", "original_args"),
    defaults={"modified_args": None},
)
row(HITLTimeoutOccurredEvent, {"call_id": "c", "tool_name": "t", "timeout_seconds": 300})
row(
    SessionCreatedEvent,
    {"system_prompt": "You are helpful"},
    {"system_prompt_length": 15},
    least=(),
    defaults={"system_prompt_length": 0},
)
row(SessionUpdatedEvent, {"update_type": "title"})
row(SessionDeletedEvent, {"soft_delete": False}, least=(), defaults={"soft_delete": True})
row(
    MessageAddedEvent,
    {"role": "user", "content_length": 100, "agent_name": "coder"},
    least=("role", "content_length"),
    defaults={"agent_name": None},
)
row(
    LLMRequestStartedEvent,
    {"model": "m", "messages_count": 2, "tools_count": 3, "request_id": "r", "provider": "openai", "agent": "coder"},
    least=("model", "request_id"),
    defaults={"messages_count": 0, "tools_count": 0, "provider": None, "agent": None},
)
row(
    LLMRequestCompletedEvent,
    {
        "model": "m",
        "duration_ms": 10.5,
        "prompt_tokens": 5,
        "completion_tokens": 6,
        "total_tokens": 11,
        "has_tool_calls": True,
        "request_id": "r",
        "time_to_first_chunk_ms": 1.5,
        "finish_reason": "stop",
        "cached_tokens": 4,
        "agent": "coder",
    },
    least=("model", "duration_ms", "request_id"),
    defaults={
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "total_tokens": 0,
        "has_tool_calls": False,
        "time_to_first_chunk_ms": None,
        "finish_reason": None,
        "cached_tokens": 0,
        "agent": None,
    },
)
row(
    LLMRequestFailedEvent,
    {"model": "m", "error": "e", "error_type": "RateLimit", "duration_ms": 1.5, "request_id": "r", "agent": "coder"},
    least=("model", "error", "error_type", "request_id"),
    defaults={"duration_ms": None, "agent": None},
)
row(SystemStartupEvent, {"version": "1.2"}, least=(), defaults={"version": ""})
row(SystemShutdownEvent, {"version": "1.2"}, least=(), defaults={"version": ""})
row(BackgroundTaskStartedEvent, {"task_name": "flush"})
row(BackgroundTaskCompletedEvent, {"task_name": "flush", "duration_ms": 1.5, "success": False})
row(DatabaseQueryExecutedEvent, {"operation": "save_session", "duration_ms": 1.5})
row(MetricsCollectedEvent, {"name": "memory", "value": -1.5, "unit": "MB"})
row(PerformanceMeasuredEvent, {"name": "latency", "value": 7, "unit": "ms"})

NAMES = [kind.__name__ for kind, *_ in CONSTRUCTED]


def test_every_type_has_a_class_and_a_row() -> None:
    """The table below speaks about every class there is."""
    assert sorted(CLASS_OF) == sorted(EventType)
    assert {kind for kind, *_ in CONSTRUCTED} == set(CLASS_OF.values())
    assert ToolExecutedEvent is ToolExecutionCompletedEvent


@pytest.mark.parametrize(("kind", "keywords", "data", "least", "with_defaults"), CONSTRUCTED, ids=NAMES)
def test_keywords_become_data(
    kind: type[BaseEvent],
    keywords: dict[str, Any],
    data: dict[str, Any],
    least: dict[str, Any],
    with_defaults: dict[str, Any],
) -> None:
    """The constructor's keywords give exactly the data of the contract, with everything said and with the least."""
    event = kind(**keywords)
    assert event.data == data
    assert (event.event_type, event.event_category) == (kind.TYPE, CATEGORY_OF[event.event_type])
    assert kind(**least).data == with_defaults


@pytest.mark.parametrize(("kind", "keywords"), [row[:2] for row in CONSTRUCTED], ids=NAMES)
def test_common_keywords(kind: type[BaseEvent], keywords: dict[str, Any]) -> None:
    """Every class takes the common keywords and serialises them to the ten keys."""
    event = kind(
        **keywords,
        session_id="s",
        correlation_id="c",
        causation_id="e",
        source="test",
        timestamp=datetime(2026, 1, 17, 16, 0, 0, 1, timezone(timedelta(hours=2))),
        event_id=ID,
    )
    dumped = event.to_dict()
    assert list(dumped) == TEN_KEYS
    assert dumped == {
        "event_id": ID,
        "event_type": str(kind.TYPE),
        "event_category": str(CATEGORY_OF[EventType(event.event_type)]),
        "timestamp": "2026-01-17T14:00:00.000001Z",
        "session_id": "s",
        "correlation_id": "c",
        "causation_id": "e",
        "data": event.data,
        "source": "test",
        "version": "1.0",
    }
    assert json.loads(event.to_json()) == dumped


def test_a_message_is_kept_only_while_content_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default its length alone is known."""
    assert "message_preview" not in AgentProcessingStartedEvent(agent_type="a", message="secret").data
    monkeypatch.setattr(content_capture, "enabled", True)
    event = AgentProcessingStartedEvent(agent_type="a", message="x" * 1000)
    assert (event.data["message_length"], event.data["message_preview"]) == (1000, "x" * 500)


def test_ids_and_times_are_minted() -> None:
    """Ids are UUIDs of version 7 that grow with time and never repeat; the time is now, aware, in UTC."""
    before = datetime.now(UTC)
    events = [AgentRegisteredEvent(agent_type="a") for _ in range(1000)]
    assert len({event.event_id for event in events}) == 1000
    assert {uuid.UUID(event.event_id).version for event in events} == {7}
    assert {event.timestamp.utcoffset() for event in events} == {timedelta(0)}
    assert before - timedelta(microseconds=1) <= events[0].timestamp <= events[-1].timestamp <= datetime.now(UTC)


@pytest.mark.parametrize("kind", [LLMRequestStartedEvent, LLMRequestFailedEvent, LLMRequestCompletedEvent])
def test_request_ids_are_minted(kind: type[BaseEvent]) -> None:
    """A publisher that gives none still has its requests told apart."""
    more = {"duration_ms": 1.0} if kind is LLMRequestCompletedEvent else {}
    more = {"error": "e", "error_type": "E"} if kind is LLMRequestFailedEvent else more
    first, second = (kind(model="m", **more) for _ in range(2))  # type: ignore[arg-type]
    assert first.data["request_id"] != second.data["request_id"]


# -- correlation and cause --------------------------------------------------------------------------


def test_correlation_and_cause_come_from_the_context() -> None:
    """An event inherits both ids where they are not given, and a given one wins."""
    EventCorrelation.set_correlation_id("turn-1")
    EventCorrelation.set_causation_id("cause-1")
    inherited = AgentRegisteredEvent(agent_type="a")
    given_ids = AgentRegisteredEvent(agent_type="a", correlation_id="turn-2", causation_id="cause-2")
    assert (inherited.correlation_id, inherited.causation_id) == ("turn-1", "cause-1")
    assert (given_ids.correlation_id, given_ids.causation_id) == ("turn-2", "cause-2")
    assert (EventCorrelation.get_correlation_id(), EventCorrelation.get_causation_id()) == ("turn-1", "cause-1")


def test_without_a_context_there_are_none() -> None:
    """Nothing is made up."""
    event = AgentRegisteredEvent(agent_type="a")
    assert (event.correlation_id, event.causation_id) == (None, None)


def test_a_parsed_event_inherits_nothing() -> None:
    """What came from outside says itself what it belongs to."""
    EventCorrelation.set_correlation_id("turn-1")
    event = parse_event({"event_type": "agent_registered", "data": {"agent": "a"}})
    assert (event.correlation_id, event.causation_id) == (None, None)


def test_a_fresh_correlation_id_is_a_trace_id() -> None:
    """32 lower-case hex digits, not all zero, never the same; it does not become current by itself."""
    ids = {EventCorrelation.create_correlation_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(i) == 32 and set(i) <= set("0123456789abcdef") and set(i) != {"0"} for i in ids)
    assert EventCorrelation.get_correlation_id() is None


# -- there and back ---------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
counts = st.integers(0, 2**63 - 1)
durations = st.integers(0, 10**9) | st.floats(0, 1e9)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
objects = st.dictionaries(texts, values, max_size=4)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC))

KEYWORDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["from_agent", "to_agent", "agent_type", "tool_name", "call_id", "agent", "decision"], names),
    **dict.fromkeys(["role", "agent_name", "model", "request_id", "provider", "finish_reason", "error_type"], names),
    **dict.fromkeys(["task_name", "operation", "update_type", "name"], names),
    **dict.fromkeys(["reason", "message", "error_message", "error", "system_prompt", "confidence", "unit"], texts),
    **dict.fromkeys(["version"], texts),
    **dict.fromkeys(["duration_ms", "time_to_first_chunk_ms"], durations),
    **dict.fromkeys(["content_length", "result_length", "messages_count", "tools_count"], counts),
    **dict.fromkeys(["prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"], counts),
    **dict.fromkeys(["timeout_seconds", "value"], numbers),
    **dict.fromkeys(["success", "soft_delete", "has_tool_calls"], st.booleans()),
    **dict.fromkeys(["arguments", "original_args", "modified_args"], objects),
}
COMMON = st.fixed_dictionaries(
    {},
    optional={
        "session_id": st.none() | names,
        "correlation_id": st.none() | names,
        "causation_id": st.none() | names,
        "source": names,
        "timestamp": moments,
        "event_id": st.uuids().map(str),
    },
)


def keywords_of(kind: type[BaseEvent]) -> st.SearchStrategy[dict[str, Any]]:
    """Keywords for ``kind``, None included where that is the default, the optional ones left out at times."""
    parameters = [
        parameter
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    drawn = {
        parameter.name: st.none() | KEYWORDS[parameter.name] if parameter.default is None else KEYWORDS[parameter.name]
        for parameter in parameters
    }
    optional = {parameter.name for parameter in parameters if parameter.default is not parameter.empty}
    return st.fixed_dictionaries(
        {name: drawn[name] for name in drawn if name not in optional}, optional={name: drawn[name] for name in optional}
    )


@pytest.mark.parametrize("kind", list(CLASS_OF.values()), ids=lambda kind: kind.__name__)
@given(st.data())
def test_every_event_is_rebuilt_from_its_own_dump(kind: type[BaseEvent], data: st.DataObject) -> None:
    """From text, from bytes and from the object, of the same class and equal; its dump is the same again."""
    event = kind(**data.draw(keywords_of(kind)), **data.draw(COMMON))
    for source in (event.to_json(), event.to_json().encode(), event.to_dict()):
        again = parse_event(source)
        assert type(again) is kind
        assert again == event
        assert again.to_json() == event.to_json()
        assert again.time_us == event.time_us


@given(st.sampled_from(list(EventType)), objects)
def test_other_keys_of_data_survive(kind: EventType, more: dict[str, Any]) -> None:
    """What a newer publisher adds is kept."""
    event = parse_event({"event_type": "agent_registered", "data": {**more, "agent": "a"}})
    assert parse_event(event.to_json()).data == {**more, "agent": "a"}


def test_an_event_parsed_from_the_least() -> None:
    """A type and its data are enough: the rest is minted or empty."""
    event = parse_event('{"event_type": "agent.registered", "data": {"agent": "coder"}}')
    assert type(event) is AgentRegisteredEvent
    assert uuid.UUID(event.event_id).version == 7
    assert (event.session_id, event.source, event.version, event.data) == (None, "", "1.0", {"agent": "coder"})


@pytest.mark.parametrize(
    ("given_time", "kept"),
    [
        ("2026-01-17T14:00:00Z", "2026-01-17T14:00:00.000000Z"),
        ("2026-01-17T14:00:00.5Z", "2026-01-17T14:00:00.500000Z"),
        ("2026-01-17T14:00:00.123456Z", "2026-01-17T14:00:00.123456Z"),
        ("2026-01-17T14:00:00.123456789Z", "2026-01-17T14:00:00.123456Z"),
        ("2026-01-17T16:00:00+02:00", "2026-01-17T14:00:00.000000Z"),
        ("2026-01-17T14:00:00", "2026-01-17T14:00:00.000000Z"),
        ("2026-01-17t14:00:00z", "2026-01-17T14:00:00.000000Z"),
    ],
)
def test_times_are_kept_in_utc_to_the_microsecond(given_time: str, kept: str) -> None:
    """Every spelling of RFC 3339, and a time without offset as UTC."""
    event = parse_event({"event_type": "agent_registered", "timestamp": given_time, "data": {"agent": "a"}})
    assert event.to_dict()["timestamp"] == kept


def test_event_ids_are_kept_in_one_spelling() -> None:
    """The same UUID in another spelling is the same event."""
    for spelling in (ID, ID.upper(), ID.replace("-", "")):
        assert AgentRegisteredEvent(agent_type="a", event_id=spelling).event_id == ID


def test_equality_and_hash() -> None:
    """Events are equal when they say the same; they can stand in a set."""
    one, same = (AgentRegisteredEvent(agent_type="a", event_id=ID, timestamp="2026-01-17T14:00:00Z") for _ in range(2))
    other = AgentRegisteredEvent(agent_type="b", event_id=ID, timestamp="2026-01-17T14:00:00Z")
    assert one == same and one != other and one != "text"
    assert {one, same} == {one}
    assert ID in repr(one)


def test_a_tuple_and_an_enum_are_stored_as_plain_json() -> None:
    """Python's own variants of the JSON types are taken, as what they are."""

    class Name(str):
        pass

    event = BaseEvent("agent_registered", {"agent": "a", "t": (1, 2), "e": EventType.AGENT_SWITCHED, "n": Name("x")})
    assert event.data == {"agent": "a", "t": [1, 2], "e": "agent_switched", "n": "x"}
    assert type(event.data["n"]) is str


# -- refusals ---------------------------------------------------------------------------------------


def body(**changes: Any) -> dict[str, Any]:
    """A good event as an object, with ``changes``."""
    return {
        "event_type": "agent_processing_completed",
        "data": {"agent": "a", "duration_ms": 1.0, "success": True},
        **changes,
    }


def data_with(**changes: Any) -> dict[str, Any]:
    """A good event with changes in its data."""
    return body(data={"agent": "a", "duration_ms": 1.0, "success": True, **changes})


def nested(depth: int) -> Any:
    """Objects within objects."""
    value: Any = {}
    for _ in range(depth):
        value = {"k": value}
    return value


REFUSED: list[tuple[Any, str, str]] = [
    ("{", "", "not valid JSON"),
    (b"\xff", "", "not valid JSON"),
    ("[]", "", "expected an object, got an array"),
    ("7", "", "expected an object, got a whole number"),
    ('{"event_type":"agent_registered","data":{"agent":"\\ud800"}}', "", "not valid JSON"),
    ('{"event_type":"agent_registered","data":{"agent":NaN}}', "", "not valid JSON"),
    ({}, "event_type", "is required"),
    (body(event_type=7), "event_type", "must be a string"),
    (body(event_type="agent_exploded"), "event_type", "there is no event type 'agent_exploded'"),
    (body(event_type="x" * 1000), "event_type", "there is no event type"),
    (body(event_id="7"), "event_id", "must be a UUID, got '7'"),
    (body(event_id=7), "event_id", "must be a UUID"),
    (body(event_id="0198c0de00007000-8000-000000000001"), "event_id", "must be a UUID"),
    (body(timestamp="yesterday"), "timestamp", "is not RFC 3339: 'yesterday'"),
    (body(timestamp="2026-13-01T00:00:00.000000Z"), "timestamp", "is not RFC 3339"),
    (body(timestamp=1_700_000_000), "timestamp", "expected RFC 3339 text, got a whole number"),
    (body(timestamp="0001-01-01T00:00:00Z"), "timestamp", "must lie in the years 2000 to 2199"),
    (body(timestamp="9999-12-31T23:59:59Z"), "timestamp", "must lie in the years 2000 to 2199"),
    (body(session_id=7), "session_id", "expected a string, got int"),
    (body(session_id=""), "session_id", "must not be empty"),
    (body(session_id="a\nb"), "session_id", "has a control character"),
    (body(correlation_id="x" * 257), "correlation_id", "has 257 characters, the limit is 256"),
    (body(causation_id=["x"]), "causation_id", "expected a string, got list"),
    (body(source=7), "source", "expected a string, got a whole number"),
    (body(version="2.0"), "version", "expected '1.0', got '2.0'"),
    (body(data=[1]), "data", "expected an object, got list"),
    (body(data={}), "data.agent", "is required"),
    (data_with(duration_ms=None), "data.duration_ms", "is required"),
    (data_with(duration_ms="1"), "data.duration_ms", "expected a number of milliseconds, got a string"),
    (data_with(duration_ms=True), "data.duration_ms", "expected a number of milliseconds, got true or false"),
    (data_with(duration_ms=-0.5), "data.duration_ms", "must be milliseconds between 0 and"),
    (data_with(duration_ms=1e300), "data.duration_ms", "must be milliseconds between 0 and"),
    (data_with(duration_ms=math.inf), "data.duration_ms", "is not a finite number"),
    (data_with(success="yes"), "data.success", "expected true or false, got a string"),
    (data_with(success=1), "data.success", "expected true or false, got a whole number"),
    (data_with(agent=7), "data.agent", "expected a string, got a whole number"),
    (data_with(agent=""), "data.agent", "must not be empty"),
    (data_with(agent="a\x1b[2J"), "data.agent", "has a control character"),
    (data_with(agent="x" * 257), "data.agent", "has 257 characters, the limit is 256"),
    (data_with(x=math.nan), "data.x", "is not a finite number: nan"),
    (data_with(x=2**63), "data.x", "more than 64 bits"),
    (data_with(x="a\0b"), "data.x", "contains a NUL character"),
    (data_with(x="\ud800"), "data.x", "contains a lone surrogate"),
    (data_with(x="x" * 1_000_001), "data.x", "has 1000001 characters, the limit is 1000000"),
    (data_with(x=[0, {"y": [math.inf]}]), "data.x[1].y[0]", "is not a finite number: inf"),
    (data_with(x={7: 1}), "data.x", "has a key that is not a string: 7"),
    (data_with(x={"\ud800": 1}), "a key of data.x", "contains a lone surrogate"),
    (data_with(x=dict.fromkeys(map(str, range(1001)))), "data.x", "has 1001 keys, the limit is 1000"),
    (data_with(x=[0] * 10_001), "data.x", "has 10001 items, the limit is 10000"),
    (data_with(x=nested(40)), "data.x" + ".k" * 31, "is nested deeper than 32 levels"),
    (data_with(x={1, 2}), "data.x", "can't be JSON: it is a set"),
    (data_with(x=object()), "data.x", "can't be JSON: it is an object"),
    (data_with(x=b"bytes"), "data.x", "can't be JSON: it is a bytes"),
    (data_with(x=datetime(2026, 1, 1)), "data.x", "can't be JSON: it is a datetime"),
    (body(event_type="message_added", data={"role": "user", "content_length": -1}), "data.content_length", "negative"),
    (body(event_type="message_added", data={"role": "user", "content_length": 1.5}), "data.content_length", "whole"),
    (
        body(event_type="tool_approval_required", data={"tool_name": "t", "call_id": "c", "arguments": "x"}),
        "data.arguments",
        "expected an object, got a string",
    ),
]


@pytest.mark.parametrize(("source", "where", "what"), REFUSED)
def test_a_bad_event_is_refused_with_what_and_where(source: Any, where: str, what: str) -> None:
    """The error names the path of the value and what is wrong with it; it is one line, and not long."""
    with pytest.raises(InvalidEvent) as refusal:
        parse_event(source)
    assert refusal.value.where == where
    assert what in refusal.value.what
    assert str(refusal.value) == (f"{where}: {refusal.value.what}" if where else refusal.value.what)
    assert isinstance(refusal.value, ValueError) and isinstance(refusal.value, EventsError)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("build", "where"),
    [
        (lambda: AgentProcessingCompletedEvent(agent_type="a", duration_ms=-1, success=True), "data.duration_ms"),
        (lambda: AgentProcessingCompletedEvent(agent_type="a", duration_ms=math.nan, success=True), "data.duration_ms"),
        (lambda: AgentRegisteredEvent(agent_type=7), "data.agent"),  # type: ignore[arg-type]
        (lambda: AgentRegisteredEvent(agent_type="a", event_id="7"), "event_id"),
        (lambda: AgentRegisteredEvent(agent_type="a", session_id=7), "session_id"),  # type: ignore[arg-type]
        (lambda: AgentRegisteredEvent(agent_type="a", timestamp="now"), "timestamp"),
        (lambda: AgentRegisteredEvent(agent_type="a", timestamp=7), "timestamp"),  # type: ignore[arg-type]
        (lambda: ToolExecutionRequestedEvent(tool_name="t", arguments={"f": print}, call_id="c"), "data.arguments.f"),
        (lambda: BaseEvent(), "event_type"),
        (lambda: BaseEvent("agent_exploded"), "event_type"),
        (lambda: BaseEvent("agent_registered", [1]), "data"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_event_is_refused_when_it_is_built(build: Any, where: str) -> None:
    """The constructors keep the same rules, so that the mistake shows where it is made."""
    with pytest.raises(InvalidEvent) as refusal:
        build()
    assert refusal.value.where == where


def test_an_unknown_keyword_is_refused() -> None:
    """A typo in a keyword is an error, not a lost value."""
    with pytest.raises(TypeError, match="agnet"):
        AgentRegisteredEvent(agent_type="a", agnet="b")  # type: ignore[call-arg]
