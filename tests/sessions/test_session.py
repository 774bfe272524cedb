from typing import Any

import pytest

from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.sessions.errors import InvalidSession, SessionEnded
from agent_runtime.sessions.session import Session

CALL = {"id": "c-1", "type": "function", "function": {"name": "echo", "arguments": "{}"}}


def test_messages_keep_their_turn() -> None:
    """Each has the correlation and the cause that were current, and the agent that wrote it."""
    session = Session("s-1")
    EventCorrelation.set_correlation_id("turn-1")
    EventCorrelation.set_causation_id("00000000-0000-4000-8000-000000000001")
    added = session.add_message({"role": "user", "content": "hi"}, agent="coder")
    assert ("turn-1", "00000000-0000-4000-8000-000000000001", "coder", "user") == (
        added.correlation_id,
        added.causation_id,
        added.agent,
        added.role,
    )
    assert [added] == session.messages


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hi", "hi"),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}], "ab"),
    ],
)
def test_the_text_of_a_message(content: Any, text: str) -> None:
    """Whatever shape its content has."""
    assert text == Session("s-1").add_message({"role": "user", "content": content}).content


def test_activity_moves_with_messages_and_changes() -> None:
    """An idle session is one in which neither happens."""
    session = Session("s-1")
    times = [session.last_activity_at]
    session.add_message({"role": "user", "content": "hi"})
    times.append(session.last_activity_at)
    session.update({"title": "t"})
    times.append(session.last_activity_at)
    assert sorted(set(times)) == times


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({}, "message.role"),
        ("hi", "message.role"),
        ({"role": "robot", "content": "x"}, "message.role"),
        ({"role": "user", "content": 5}, "message.content"),
        ({"role": "assistant", "content": None, "tool_calls": {"id": "c"}}, "message.tool_calls"),
        ({"role": "tool", "content": "x"}, "message.tool_call_id"),
        ({"role": "user", "content": "x", "score": float("nan")}, "message"),
        ({"role": "user", "content": "x", "when": object()}, "message"),
    ],
)
def test_what_is_no_message_is_refused(message: Any, where: str) -> None:
    """With the place that is wrong; and nothing is kept of it."""
    session = Session("s-1")
    with pytest.raises(InvalidSession, match=f"^{where}: "):
        session.add_message(message)
    assert [] == session.messages


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c-1", "content": "ok"},
        {"role": "system", "content": ""},
        {"role": "developer", "content": "x"},
    ],
)
def test_what_models_and_tools_say_is_kept_as_it_is(message: dict[str, Any]) -> None:
    """Tool calls and results too."""
    assert message == Session("s-1").add_message(dict(message)).message


@pytest.mark.parametrize("session_id", ["", "a/b", "..", "a\nb", "a\0", "\ud800", "x" * 257, 5])
def test_ids_that_no_url_or_database_takes(session_id: Any) -> None:
    """They are refused when the session begins, not when it is looked for."""
    with pytest.raises(InvalidSession, match=r"^id: "):
        Session(session_id)


@pytest.mark.parametrize(
    "arguments", [{"system_prompt": "a\0"}, {"system_prompt": 1}, {"details": {"n": float("inf")}}, {"details": []}]
)
def test_details_that_cannot_be_kept(arguments: dict[str, Any]) -> None:
    """As in an event."""
    with pytest.raises(InvalidSession, match=f"^{next(iter(arguments))}"):
        Session("s-1", **arguments)


def test_an_ended_session_takes_no_more() -> None:
    """Neither messages nor changes."""
    session = Session("s-1")
    session.ended_at, session.end_reason = session.created_at, "expired"
    with pytest.raises(SessionEnded, match="session s-1 has expired"):
        session.add_message({"role": "user", "content": "hi"})
    with pytest.raises(SessionEnded):
        session.update({"a": 1})
