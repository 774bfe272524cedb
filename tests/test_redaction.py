"""The redactor: what is taken out of events before the store, and what must stay as it is."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.events import parse_event
from agent_runtime.events.domain_events import DomainRecord, MessageReceived
from agent_runtime.events.event_types import EventType
from agent_runtime.events.fields import COUNT, DURATION, FLAG, NAME, NUMBER, OBJECT
from agent_runtime.events.parsing import CLASS_OF
from agent_runtime.events.redaction import MAX_TEXT, REDACTED, digest
from agent_runtime.redaction import Redactor

KEY = "sk-" + "a1B2" * 8


def redacted(capture: bool, event_type: str = "tool_execution_requested", **data: Any) -> dict[str, Any]:
    """The data of an event after the redactor."""
    base = {"tool_name": "t", "call_id": "c", "arguments": {}}
    event = parse_event({"event_type": event_type, "data": {**base, **data}})
    Redactor(capture)(event)
    return event.data


def test_arguments_are_hashed() -> None:
    """Without capture the names of arguments stay, and each value becomes its hash."""
    arguments = {"path": "/etc/passwd", "n": 1, "deep": {"b": 1, "a": 2}}
    expected = {name: digest(value) for name, value in arguments.items()}
    assert expected == redacted(False, arguments=arguments)["arguments"]
    assert digest({"a": 2, "b": 1}) == expected["deep"]
    assert 19 == len(expected["path"])


def test_arguments_of_a_decision_are_hashed() -> None:
    """The original and the modified ones; what is absent stays absent."""
    data = redacted(False, "hitl_decision_made", decision="EDIT", original_args={"a": 1}, modified_args=None)
    assert ({"a": digest(1)}, None) == (data["original_args"], data["modified_args"])


def test_other_content_is_hashed_or_dropped() -> None:
    """Messages and results that a publisher adds become a hash; the preview goes."""
    started = {"agent": "a", "message_length": 3, "message_preview": "abc", "content": "abc"}
    event = parse_event({"event_type": "agent_processing_started", "data": started})
    Redactor(False)(event)
    assert {"agent": "a", "message_length": 3, "content": digest("abc")} == event.data


def test_captured_content_stays() -> None:
    """With capture everything stays but secrets, however deep."""
    arguments = {"path": "x", "password": "hunter2", "list": [{"api_key": "k"}, f"use {KEY} now"], "n": 1}
    expected = {"path": "x", "password": REDACTED, "list": [{"api_key": REDACTED}, f"use {REDACTED} now"], "n": 1}
    assert expected == redacted(True, arguments=arguments)["arguments"]


@pytest.mark.parametrize("capture", [True, False])
def test_secrets_go_in_either_case(capture: bool) -> None:
    """By the name of their key, and by their shape in any text."""
    data = redacted(capture, "tool_execution_failed", error_message=f"401 with {KEY}", error_type="E", auth_token="t")
    assert (f"401 with {REDACTED}", REDACTED) == (data["error_message"], data["auth_token"])


def test_long_texts_are_cut() -> None:
    """At 32,768 characters, with a mark of how long they were."""
    text = redacted(True, "agent_error_occurred", agent="a", error_type="E", error_message="x" * 40_000)[
        "error_message"
    ]
    assert "x" * MAX_TEXT + "… [cut: 40000 characters]" == text


def test_redacting_twice_is_redacting_once() -> None:
    """An event that was sent on by another service is not changed again."""
    event = parse_event(
        {"event_type": "tool_execution_requested", "data": {"tool_name": "t", "call_id": "c", "arguments": {"a": KEY}}}
    )
    Redactor(False)(event)
    once = copy.deepcopy(event.data)
    Redactor(False)(event)
    assert once == event.data


@pytest.mark.parametrize("event_type", EventType)
@pytest.mark.parametrize("capture", [True, False])
def test_what_folds_need_stays(event_type: EventType, capture: bool) -> None:
    """No name, id, count, duration or flag of any event is touched, whatever it says."""
    values = {NAME: KEY, COUNT: 7, DURATION: 1.5, NUMBER: 3, FLAG: True}
    fields = CLASS_OF[event_type].FIELDS
    kept = {field.name: values[field.kind] for field in fields if field.kind in values}
    required = {field.name: {} if field.kind is OBJECT else "x" for field in fields if field.kind not in values}
    event = parse_event({"event_type": str(event_type), "data": {**required, **kept}})
    before = (event.event_id, event.session_id, event.time_us)
    Redactor(capture)(event)
    assert kept == {name: event.data[name] for name in kept}
    assert before == (event.event_id, event.session_id, event.time_us)


def test_a_message_of_the_domain_can_be_read_back() -> None:
    """Its content is a hash in the store, and the event that is rebuilt from it is whole."""
    record = DomainRecord.of(MessageReceived(session_id="s", message_content="hello", message_length=5))
    Redactor(False)(record)
    record.restore()
    assert (digest("hello"), 5, "s") == (
        record.domain.message_content,
        record.data["message_length"],
        record.session_id,
    )


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)
)
KEYS = st.text("abc_", min_size=1, max_size=8)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=10
)


@given(st.dictionaries(st.sampled_from(["x", "note", "token", "result", "password"]), VALUES), st.booleans())
def test_it_takes_whatever_data_may_hold(data: dict[str, Any], capture: bool) -> None:
    """Redacted data may stand in an event too, and under a secret's name nothing is left to read."""
    secrets = {key for key in ("token", "password") if not isinstance(data.get(key), bool | None)}
    event = parse_event({"event_type": "tool_execution_started", "data": {"tool_name": "t", "call_id": "c", **data}})
    Redactor(capture)(event)
    event.check()
    assert dict.fromkeys(secrets, REDACTED) == {key: event.data[key] for key in secrets}
