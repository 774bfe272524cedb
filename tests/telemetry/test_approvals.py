from typing import Any

import pytest

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.tool_events import (
    HITLApprovalRequestedEvent,
    HITLDecisionMadeEvent,
    HITLTimeoutOccurredEvent,
    ToolApprovalRequiredEvent,
)
from telemetry import approvals as module
from telemetry.approvals import Approvals, Wait
from tests.telemetry.folds import Script

CALL: dict[str, Any] = {"tool_name": "t", "call_id": "1"}
ASKED: dict[str, Any] = {**CALL, "arguments": {}}
GRACE = 10


class Book:
    """Approvals and what they counted."""

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.requested: list[str] = []
        self.approvals = Approvals(GRACE, self.waits.append, self.requested.append)

    def take(self, *events: BaseEvent) -> None:
        """Take events, recorded one after another from 1 on."""
        for number, event in enumerate(events, 1):
            event.recorded_ns = number
            self.approvals.take(event)


def outcome(book: Book) -> list[tuple[str, str, int]]:
    """The waits: who opened them, how they were decided, and how long they took in seconds."""
    return [(wait.opening_id, wait.decision, (wait.decided_us - wait.requested_us) // 1_000_000) for wait in book.waits]


@pytest.mark.parametrize("backwards", [True, False])
def test_one_request_announced_twice(backwards: bool) -> None:
    """Both announcements are one request, and the wait runs from the first to the decision, in any order of arrival."""
    turn = Script("a")
    first = turn.tell(ToolApprovalRequiredEvent, **ASKED)
    turn.wait(1)
    turn.tell(HITLApprovalRequestedEvent, first, **ASKED)
    turn.wait(5)
    turn.tell(HITLDecisionMadeEvent, first, **CALL, decision="ReJect")
    book = Book()
    book.take(*(turn.events[::-1] if backwards else turn.events))
    book.approvals.due(100)
    assert ([(first.event_id, "reject", 6)], ["t"]) == (outcome(book), book.requested)


def test_counted_after_the_grace() -> None:
    """A wait is counted once, when the grace after its last event is over."""
    turn = Script("a")
    asked = turn.tell(ToolApprovalRequiredEvent, **ASKED)
    turn.tell(HITLTimeoutOccurredEvent, asked, **CALL, timeout_seconds=5)
    book = Book()
    book.take(*turn.events)
    book.approvals.due(2 + GRACE)
    assert [] == outcome(book)
    book.approvals.due(3 + GRACE)
    book.approvals.due(1000)
    assert [(asked.event_id, "timeout", 0)] == outcome(book)


def test_a_second_decision_is_not_a_second_wait() -> None:
    """Two decisions on one request: the first counts; a request that comes afterwards still waits."""
    turn = Script("a")
    asked = turn.tell(ToolApprovalRequiredEvent, **ASKED)
    turn.wait(1)
    turn.tell(HITLDecisionMadeEvent, asked, **CALL, decision="approve")
    turn.wait(1)
    turn.tell(HITLDecisionMadeEvent, asked, **CALL, decision="reject")
    turn.wait(1)
    again = turn.tell(ToolApprovalRequiredEvent, **ASKED)
    book = Book()
    book.take(*turn.events)
    book.approvals.due(1000)
    assert [(asked.event_id, "approve", 1)] == outcome(book)
    assert ({"t": 1}, again.time_us) == (book.approvals.pending_by_tool(), book.approvals.oldest_pending_us())


def test_pending_follows_the_events() -> None:
    """What was asked and not decided is pending, by tool, with the oldest first."""
    turn = Script("a")
    first = turn.tell(ToolApprovalRequiredEvent, **ASKED)
    turn.wait(1)
    second = turn.tell(ToolApprovalRequiredEvent, **{**ASKED, "tool_name": "u"})
    book = Book()
    book.take(*turn.events)
    assert ({"t": 1, "u": 1}, first.time_us) == (book.approvals.pending_by_tool(), book.approvals.oldest_pending_us())
    book.take(turn.tell(HITLDecisionMadeEvent, first, **CALL, decision="approve"))
    assert ({"u": 1}, second.time_us) == (book.approvals.pending_by_tool(), book.approvals.oldest_pending_us())
    book.take(turn.tell(HITLDecisionMadeEvent, None, **{**CALL, "tool_name": "u"}, decision="approve"))
    assert ({}, None) == (book.approvals.pending_by_tool(), book.approvals.oldest_pending_us())


def test_the_same_call_id_in_two_turns() -> None:
    """Call ids of different turns, or of different sessions where there is no turn, are different calls."""
    book = Book()
    for turn in (Script("a"), Script("b"), Script(None, "s-1"), Script(None, "s-2")):
        turn.tell(ToolApprovalRequiredEvent, **ASKED)
        book.take(*turn.events)
    assert ({"t": 4}, 4) == (book.approvals.pending_by_tool(), len(book.requested))


def test_dump_and_load() -> None:
    """What is loaded dumps the same, has the same pending, and counts what the first had not counted."""
    turn = Script("a")
    asked = turn.tell(ToolApprovalRequiredEvent, **ASKED)
    turn.wait(1)
    turn.tell(HITLDecisionMadeEvent, asked, **CALL, decision="approve")
    turn.tell(ToolApprovalRequiredEvent, **ASKED)
    book, again = Book(), Book()
    book.take(*turn.events)
    again.approvals.load(book.approvals.dump())
    assert book.approvals.dump() == again.approvals.dump()
    assert {"t": 1} == again.approvals.pending_by_tool()
    again.approvals.due(1000)
    assert [(asked.event_id, "approve", 1)] == outcome(again)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit, first those that are over are forgotten."""
    monkeypatch.setattr(module, "MAX_KEPT", 10)
    book = Book()
    turn = Script("a")
    waiting = turn.tell(ToolApprovalRequiredEvent, **{**ASKED, "tool_name": "waits"})
    book.take(waiting)
    for number in range(50):
        call = {**CALL, "call_id": str(number)}
        asked = turn.tell(ToolApprovalRequiredEvent, **call, arguments={})
        book.take(asked, turn.tell(HITLDecisionMadeEvent, asked, **call, decision="approve"))
    assert ({"waits": 1}, 10) == (book.approvals.pending_by_tool(), len(book.approvals.dump()))


def test_a_call_id_without_end() -> None:
    """A call id that is asked about again and again is counted each time."""
    turn = Script("a")
    book = Book()
    for number in range(300):
        asked = turn.tell(ToolApprovalRequiredEvent, **ASKED)
        turn.wait(1)
        decision = turn.tell(HITLDecisionMadeEvent, asked if number % 2 else None, **CALL, decision="approve")
        book.take(asked, decision)
    book.approvals.due(1_000)
    assert (300, 300, {}) == (len(book.requested), len(book.waits), book.approvals.pending_by_tool())
