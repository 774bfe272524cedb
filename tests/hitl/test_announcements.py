from datetime import timedelta
from typing import Any

import pytest

from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventType as T
from agent_runtime.hitl.announcements import events_of, outcome_event_id, request_event_id
from agent_runtime.hitl.manager import HITLManager
from tests.hitl.asking import ARGUMENTS, CAUSE, TURN, Clock, ask


async def test_a_request_is_told_in_the_turn_that_asks(manager: HITLManager, clock: Clock) -> None:
    """Both events carry the turn's correlation and cause, and the moment of the question."""
    approval = await ask(manager)
    required, requested = events_of(approval)
    common = {
        "session_id": "s-1",
        "correlation_id": TURN,
        "causation_id": CAUSE,
        "timestamp": "2026-03-01T12:00:00.000000Z",
    }
    call: dict[str, Any] = {
        "call_id": "call-1",
        "tool_name": "write_file",
        "arguments": ARGUMENTS,
        "reason": "writes a file",
    }
    assert [
        {**common, "event_type": T.TOOL_APPROVAL_REQUIRED, "data": call},
        {**common, "event_type": T.HITL_APPROVAL_REQUESTED, "data": {**call, "timeout_seconds": 300.0}},
    ] == [{key: event.to_dict()[key] for key in (*common, "event_type", "data")} for event in (required, requested)]


async def test_a_caller_may_have_said_that_approval_is_required(manager: HITLManager) -> None:
    """Then it is not said twice."""
    approval = await ask(manager, says_required=False)
    assert [T.HITL_APPROVAL_REQUESTED] == [event.event_type for event in events_of(approval)]


@pytest.mark.parametrize(
    ("sent", "word", "modified"),
    [(("approve",), "APPROVE", None), (("edit", {"path": "b"}), "EDIT", {"path": "b"}), (("reject",), "REJECT", None)],
)
async def test_a_decision_is_told_in_the_turn_that_asked(
    manager: HITLManager, clock: Clock, sent: tuple[Any, ...], word: str, modified: dict[str, Any] | None
) -> None:
    """Same correlation, caused by the request, at the moment of the decision."""
    approval = await ask(manager)
    clock.pass_by(90)
    decided = await manager.decide(
        approval.id, sent[0], modified_arguments=sent[-1] if modified else None, decided_by="a"
    )
    event = events_of(decided)[-1]
    assert {
        "event_id": outcome_event_id(decided),
        "event_type": T.HITL_DECISION_MADE,
        "event_category": "hitl",
        "timestamp": "2026-03-01T12:01:30.000000Z",
        "session_id": "s-1",
        "correlation_id": TURN,
        "causation_id": request_event_id(approval.id),
        "data": {
            "call_id": "call-1",
            "decision": word,
            "tool_name": "write_file",
            "original_args": ARGUMENTS,
            "modified_args": modified,
        },
        "source": "hitl",
        "version": "1.0",
    } == event.to_dict()


async def test_a_timeout_is_told_as_of_the_deadline(manager: HITLManager, clock: Clock) -> None:
    """However late it is noticed, the person's time ended at the deadline."""
    approval = await ask(manager)
    clock.pass_by(7200)
    await manager.sweep()
    expired = await manager.get(approval.id)
    event = events_of(expired)[-1]
    assert (
        outcome_event_id(expired),
        T.HITL_TIMEOUT_OCCURRED,
        approval.requested_at + timedelta(seconds=300),
        TURN,
        request_event_id(approval.id),
        {"call_id": "call-1", "tool_name": "write_file", "timeout_seconds": 300.0},
    ) == (event.event_id, event.event_type, event.timestamp, event.correlation_id, event.causation_id, event.data)


async def test_events_are_the_same_however_often_they_are_made(manager: HITLManager) -> None:
    """Also from the row as another connection reads it."""
    await ask(manager)
    decided = await manager.decide("call-1", "edit", modified_arguments={"z": 1.0, "a": [1, None]}, decided_by="a")
    assert events_of(decided) == events_of(await manager.get(decided.id))


async def test_approvals_of_one_call_id_have_events_of_their_own(manager: HITLManager, bus: EventBus) -> None:
    """Models use call ids again; ids of events come from the approval's own."""
    for _ in range(3):
        await ask(manager)
        await manager.decide("call-1", "reject", decided_by="a")
    assert 9 == bus.store.last_position()
