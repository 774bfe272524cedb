import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent_runtime.events.correlation import EventContext, current
from agent_runtime.events.domain_events import (
    DOMAIN_EVENTS,
    AgentAssigned,
    AgentSwitchRequested,
    ConversationCompleted,
    DomainEvent,
    DomainRecord,
    MessageReceived,
    SessionCreated,
    SessionExpired,
    TaskCompleted,
    to_infrastructure_event,
)
from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventCategory
from agent_runtime.events.parsing import parse_event
from agent_runtime.events.session_events import SessionCreatedEvent
from agent_runtime.events.store.sqlite import SqliteStore

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["message_content", "reason", "result_summary"], texts),
    **dict.fromkeys(
        ["session_id", "aggregate_id", "created_by", "role", "agent_type", "from_agent", "to_agent"], names
    ),
    **dict.fromkeys(["message_length", "total_messages"], st.integers(0, 2**63 - 1)),
    "message_id": st.none() | names,
    "duration_seconds": st.floats(0, 1e9),
    "success": st.booleans(),
    "event_id": st.uuids().map(str),
    "occurred_at": st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)),
}


def test_the_domain_events() -> None:
    """Exactly these exist, each with its own keys beside the common ones."""
    own = {name: sorted(set(kind.model_fields) - set(DomainEvent.model_fields)) for name, kind in DOMAIN_EVENTS.items()}
    assert own == {
        "SessionCreated": ["created_by", "session_id"],
        "MessageReceived": ["message_content", "message_id", "message_length", "role", "session_id"],
        "ConversationCompleted": ["duration_seconds", "session_id", "total_messages"],
        "SessionExpired": ["reason", "session_id"],
        "AgentAssigned": ["agent_type", "reason", "session_id"],
        "TaskCompleted": ["agent_type", "result_summary", "session_id", "success"],
        "AgentSwitchRequested": ["from_agent", "reason", "session_id", "to_agent"],
    }
    assert sorted(DomainEvent.model_fields) == ["aggregate_id", "event_id", "occurred_at"]


def test_common_values() -> None:
    """Time is aware, the aggregate is the session where nothing else is said, and nothing can be changed."""
    event = SessionCreated(session_id="s")
    assert event.occurred_at.tzinfo is not None
    assert (event.aggregate_id, event.created_by) == ("s", "system")
    assert SessionCreated(session_id="s", aggregate_id="a").aggregate_id == "a"
    with pytest.raises(ValidationError, match="frozen"):
        event.session_id = "t"


@pytest.mark.parametrize("kind", list(DOMAIN_EVENTS.values()), ids=lambda kind: kind.__name__)
@given(st.data())
def test_every_domain_event_is_rebuilt_from_its_record(kind: type[DomainEvent], data: st.DataObject) -> None:
    """The envelope's own JSON gives an equal envelope and an equal domain event."""
    event = kind(**{name: data.draw(VALUES[name]) for name in kind.model_fields})
    record = DomainRecord.of(event)
    again = parse_event(record.to_json())
    assert isinstance(again, DomainRecord)
    assert again == record
    assert again.domain == event
    assert type(again.domain) is kind


def test_a_record_has_the_ids_of_its_context() -> None:
    """It is an event like others: of a session, a turn and a cause."""
    event = MessageReceived(session_id="s", message_content="hi", message_length=2)
    token = current.set(EventContext("turn", "cause"))
    record = DomainRecord.of(event)
    current.reset(token)
    dumped = record.to_dict()
    assert (dumped["event_type"], dumped["event_category"], dumped["session_id"]) == ("MessageReceived", "domain", "s")
    assert (dumped["correlation_id"], dumped["causation_id"]) == ("turn", "cause")
    assert (dumped["event_id"], record.timestamp) == (event.event_id, event.occurred_at)


def test_a_record_from_outside_keeps_what_it_says() -> None:
    """Its ids and its source are its own."""
    record = DomainRecord.of(SessionCreated(session_id="s"))
    given_keys = {**record.to_dict(), "correlation_id": "turn", "causation_id": "cause", "source": "elsewhere"}
    assert parse_event(given_keys).to_dict() == given_keys


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"data": None}, "data", "expected an object, got null"),
        ({"data": {}}, "data.session_id", "required"),
        ({"data": {"session_id": 7}}, "data.session_id", "string"),
        ({"data": {"session_id": ""}}, "session_id", "must not be empty"),
        ({"data": {"session_id": "a\nb"}}, "session_id", "has a control character"),
        ({"data": {"session_id": "s", "created_by": "a\0b"}}, "data.created_by", "contains a NUL character"),
        ({"data": {"session_id": "s", "created_by": "\ud800"}}, "data.created_by", ""),
        ({"event_id": "7"}, "event_id", "must be a UUID"),
        ({"event_id": [7]}, "event_id", "string"),
        ({"timestamp": "yesterday"}, "timestamp", "valid datetime"),
        ({"timestamp": "0001-01-01T00:00:00Z"}, "timestamp", "must lie in the years 2000 to 2199"),
        ({"correlation_id": [7]}, "correlation_id", "expected a string, got list"),
        ({"causation_id": "a\x1b"}, "causation_id", "has a control character"),
        ({"source": 7}, "source", "expected a string, got int"),
    ],
)
def test_a_bad_record_is_refused_with_what_and_where(changes: dict[str, Any], where: str, what: str) -> None:
    """What would break the store, a label or a log is refused at the door, as of other events, in one line."""
    with pytest.raises(InvalidEvent) as refusal:
        parse_event({"event_type": "SessionCreated", "data": {"session_id": "s"}, **changes})
    assert refusal.value.where == where
    assert what in refusal.value.what
    assert "\n" not in str(refusal.value)


def test_what_can_not_be_stored_is_refused_when_it_is_published() -> None:
    """A domain event that the models allow but no store takes."""
    with pytest.raises(InvalidEvent, match=r"data\.duration_seconds: is not a finite number"):
        DomainRecord.of(ConversationCompleted(session_id="s", total_messages=1, duration_seconds=float("nan")))


async def test_domain_events_are_subscribed_by_class_by_base_and_by_category() -> None:
    """A handler gets the domain event itself; infrastructure events of similar names stay apart."""
    bus = EventBus()
    by_class: list[Any] = []
    by_name: list[Any] = []
    by_base: list[Any] = []
    by_category: list[Any] = []
    infrastructure: list[Any] = []
    bus.subscribe(event_type=SessionCreated, handler=by_class.append)
    bus.subscribe(event_type="SessionCreated", handler=by_name.append)
    bus.subscribe(event_type=DomainEvent, handler=by_base.append)
    bus.subscribe(event_category=EventCategory.DOMAIN, handler=by_category.append)
    bus.subscribe(event_type=SessionCreatedEvent, handler=infrastructure.append)
    created, expired = SessionCreated(session_id="s"), SessionExpired(session_id="s", reason="idle")
    technical = SessionCreatedEvent(session_id="s")
    for event in (created, expired, technical):
        await bus.publish(event, wait_for_handlers=True)
    assert by_class == by_name == [created]
    assert by_base == by_category == [created, expired]
    assert infrastructure == [technical]


def test_domain_events_survive_a_restart(tmp_path: Path) -> None:
    """What was published is read back from the file as the same domain event."""
    event = TaskCompleted(session_id="s", agent_type="coder", success=True, result_summary="готово")
    store = SqliteStore(tmp_path / "events.db")

    async def publish() -> None:
        bus = EventBus(store)
        await bus.publish(event)
        assert await bus.close()

    asyncio.run(publish())
    store.close()
    reopened = SqliteStore(tmp_path / "events.db")
    (record,) = reopened.query(session_id="s")
    reopened.close()
    assert isinstance(record, DomainRecord) and record.domain == event


@pytest.mark.parametrize(
    ("event", "event_type", "data"),
    [
        (SessionCreated(session_id="s", created_by="user"), "session_created", {"system_prompt_length": 0}),
        (
            MessageReceived(session_id="s", message_content="hi", message_length=2),
            "message_added",
            {"role": "user", "content_length": 2, "agent_name": None},
        ),
        (SessionExpired(session_id="s", reason="idle"), "session_deleted", {"soft_delete": True}),
        (
            AgentSwitchRequested(session_id="s", from_agent="a", to_agent="b", reason="r"),
            "agent_switched",
            {"from_agent": "a", "to_agent": "b", "reason": "r", "confidence": None},
        ),
        (
            TaskCompleted(session_id="s", agent_type="coder", success=False, result_summary=""),
            "agent_processing_completed",
            {"agent": "coder", "duration_ms": 0.0, "success": False},
        ),
    ],
)
def test_the_mapping_to_infrastructure_events(event: DomainEvent, event_type: str, data: dict[str, Any]) -> None:
    """Each domain event that has an equivalent becomes it, in the same session."""
    mapped = to_infrastructure_event(event)
    assert mapped is not None
    assert (mapped.event_type, mapped.session_id, mapped.data) == (event_type, "s", data)


@pytest.mark.parametrize(
    "event",
    [
        ConversationCompleted(session_id="s", total_messages=1, duration_seconds=1.0),
        AgentAssigned(session_id="s", agent_type="coder", reason="r"),
    ],
)
def test_some_domain_events_have_no_infrastructure_event(event: DomainEvent) -> None:
    """None says so."""
    assert to_infrastructure_event(event) is None
