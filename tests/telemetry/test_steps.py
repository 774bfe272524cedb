import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.events.agent_events import (
    AgentErrorOccurredEvent,
    AgentProcessingCompletedEvent,
    AgentProcessingStartedEvent,
)
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.llm_events import LLMRequestCompletedEvent, LLMRequestStartedEvent
from agent_runtime.events.tool_events import (
    HITLDecisionMadeEvent,
    ToolApprovalRequiredEvent,
    ToolExecutionCompletedEvent,
    ToolExecutionFailedEvent,
    ToolExecutionRequestedEvent,
    ToolExecutionStartedEvent,
)
from telemetry.pairing import Step
from telemetry.phases import divide
from telemetry.steps import TurnFacts
from tests.telemetry.folds import Script, plain_turn, random_turns

CALL: dict[str, Any] = {"tool_name": "t", "call_id": "1"}
RUN: dict[str, Any] = {"agent_type": "coder", "message": "m"}
RAN: dict[str, Any] = {"agent_type": "coder", "duration_ms": 1.0}


def facts_of(events: list[BaseEvent]) -> TurnFacts:
    """The facts of these events, with parents."""
    facts = TurnFacts({event.event_id: event for event in events})
    facts.find_parents()
    return facts


def ends(facts: TurnFacts, operation: str) -> list[tuple[BaseEvent | None, BaseEvent | None]]:
    """The two ends of each step of one operation, by start."""
    return [(step.opened, step.closed) for step in facts.steps if step.row.operation == operation]


def test_a_plain_turn() -> None:
    """A turn of one agent: its steps, their places, and the request that announced the tool call."""
    turn = plain_turn()
    facts = facts_of(turn.events)
    agent, chat, approval, tool = facts.steps
    assert ["invoke_agent", "chat", "await_approval", "execute_tool"] == [step.row.operation for step in facts.steps]
    assert [None, agent, agent, agent] == [step.parent for step in facts.steps]
    assert turn.events[4] is tool.announced
    assert ([], [], set()) == (facts.open_steps, facts.late_starts, facts.causes)
    assert {"model": 2_000_000, "tool": 500_000, "human": 60_000_000, "runtime": 2_000_000} == facts.phases()
    assert (chat.negative, approval.end_us - approval.start_us) == (False, 60_000_000)


def test_a_call_id_that_is_used_again() -> None:
    """Two calls under one id are two steps: each end belongs to the beginning that is its cause."""
    turn = Script("a")
    first = turn.tell(ToolExecutionStartedEvent, **CALL)
    second = turn.tell(ToolExecutionStartedEvent, **CALL)
    turn.wait(1)
    of_second = turn.tell(ToolExecutionCompletedEvent, second, **CALL, duration_ms=1.0)
    turn.wait(1)
    of_first = turn.tell(ToolExecutionCompletedEvent, first, **CALL, duration_ms=1.0)
    found = ends(facts_of(turn.events), "execute_tool")
    assert {(first.event_id, of_first.event_id), (second.event_id, of_second.event_id)} == {
        (opened.event_id, closed.event_id) for opened, closed in found if opened and closed
    }


def test_one_call_id_of_two_tools() -> None:
    """A call id that two tools share joins nothing across them."""
    turn = Script("a")
    other = {**CALL, "tool_name": "u"}
    first = turn.tell(ToolExecutionStartedEvent, **CALL)
    second = turn.tell(ToolExecutionStartedEvent, **other)
    turn.wait(1)
    of_second = turn.tell(ToolExecutionCompletedEvent, **other, duration_ms=1.0)
    of_first = turn.tell(ToolExecutionCompletedEvent, **CALL, duration_ms=1.0)
    assert {(first, of_first), (second, of_second)} == set(ends(facts_of(turn.events), "execute_tool"))


def test_an_agent_within_itself() -> None:
    """The end of an inner run of the same agent is found along its causes."""
    turn = Script("a")
    outer = turn.tell(AgentProcessingStartedEvent, **RUN)
    turn.wait(1)
    inner = turn.tell(AgentProcessingStartedEvent, outer, **RUN)
    call = turn.tell(LLMRequestStartedEvent, inner, model="m", request_id="r")
    turn.wait(1)
    answer = turn.tell(LLMRequestCompletedEvent, call, model="m", request_id="r", duration_ms=1.0)
    inner_end = turn.tell(AgentProcessingCompletedEvent, answer, **RAN)
    turn.wait(1)
    outer_end = turn.tell(AgentProcessingCompletedEvent, outer, **RAN)
    facts = facts_of(turn.events)
    assert [(outer, outer_end), (inner, inner_end)] == ends(facts, "invoke_agent")
    assert [None, facts.steps[0], facts.steps[1]] == [step.parent for step in facts.steps]


def test_an_end_without_a_beginning() -> None:
    """It begins as much earlier as it took, and the turn with it."""
    turn = Script("a")
    turn.tell(ToolExecutionRequestedEvent, **CALL, arguments={})
    turn.wait(1)
    turn.tell(ToolExecutionCompletedEvent, **CALL, duration_ms=4000.0)
    facts = facts_of(turn.events)
    assert [4_000_000] == [step.end_us - step.start_us for step in facts.late_starts]
    assert 4_000_000 == facts.end_us - facts.start_us == sum(facts.phases().values())


def test_a_refused_call() -> None:
    """A call that failed at once, because of its request alone, had no beginning; none is waited for."""
    turn = Script("a")
    requested = turn.tell(ToolExecutionRequestedEvent, **CALL, arguments={})
    failure = {**CALL, "error_message": "no", "error_type": "not_allowed"}
    turn.tell(ToolExecutionFailedEvent, requested, **failure, duration_ms=0.0)
    assert [] == facts_of(turn.events).late_starts
    turn.tell(ToolExecutionFailedEvent, requested, **failure, duration_ms=1.0)
    assert 1 == len(facts_of(turn.events).late_starts)


def test_a_second_decision_changes_nothing() -> None:
    """The first decision ends the wait, also where the second names the same cause."""
    turn = Script("a")
    asked = turn.tell(ToolApprovalRequiredEvent, **CALL, arguments={})
    turn.wait(1)
    decided = turn.tell(HITLDecisionMadeEvent, asked, **CALL, decision="approve")
    turn.wait(1)
    turn.tell(HITLDecisionMadeEvent, asked, **CALL, decision="reject")
    turn.tell(HITLDecisionMadeEvent, None, **CALL, decision="reject")
    assert [(asked, decided)] == ends(facts_of(turn.events), "await_approval")


def test_what_follows_a_step_is_beside_it() -> None:
    """What a finished step brought about happened where the step did, not in it."""
    turn = plain_turn()
    agent, _, _, tool = facts_of(turn.events).steps
    assert agent is tool.parent


def test_circles_of_causes() -> None:
    """Steps that are each other's cause, and events that are, end at the turn itself."""
    turn = Script("a")
    first = turn.tell(AgentProcessingStartedEvent, **RUN)
    second = turn.tell(AgentProcessingStartedEvent, first, agent_type="debug", message="")
    third = turn.tell(AgentProcessingStartedEvent, second, agent_type="ask", message="")
    first.causation_id = third.event_id
    error = turn.tell(AgentErrorOccurredEvent, agent_type="ask", error_message="", error_type="E")
    error.causation_id = error.event_id
    turn.tell(LLMRequestStartedEvent, error, model="m")
    facts = facts_of(turn.events)
    for step in facts.steps:
        seen: set[Step] = set()
        above: Step | None = step
        while above is not None:
            assert above not in seen
            seen.add(above)
            above = above.parent


@pytest.mark.parametrize("success", [True, False])
def test_why_a_turn_failed(success: bool) -> None:
    """A turn fails with the run that ended last, the outermost of those that ended together."""
    turn = Script("a")
    outer = turn.tell(AgentProcessingStartedEvent, **RUN)
    turn.wait(1)
    inner = turn.tell(AgentProcessingStartedEvent, outer, agent_type="debug", message="")
    turn.tell(AgentErrorOccurredEvent, inner, agent_type="coder", error_message="", error_type="Outer")
    turn.tell(AgentProcessingCompletedEvent, inner, agent_type="debug", duration_ms=0.0, success=not success)
    turn.tell(AgentProcessingCompletedEvent, outer, **RAN, success=success)
    assert ("" if success else "Outer") == facts_of(turn.events).error_type()


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False))
def test_phases_of_random_turns(rng: random.Random) -> None:
    """Whatever overlaps: no phase is negative, and together they are the turn."""
    events = [event for event in random_turns(rng, 1) if event.correlation_id]
    facts = facts_of(events)
    assert min(facts.phases().values()) >= 0
    assert facts.end_us - facts.start_us == sum(facts.phases().values())


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(0, 4, "model", ()), (4, 6, "tool", ("1",))], {"model": 4, "tool": 2, "human": 0, "runtime": 4}),
        ([(0, 4, "tool", ("1",)), (2, 6, "model", ())], {"model": 4, "tool": 2, "human": 0, "runtime": 4}),
        ([(0, 6, "tool", ("1",)), (1, 5, "human", ("1",))], {"model": 0, "tool": 2, "human": 4, "runtime": 4}),
        ([(0, 6, "tool", ("2",)), (1, 8, "human", ("1",))], {"model": 0, "tool": 6, "human": 2, "runtime": 2}),
        ([(0, 6, "tool", ("1",)), (0, 6, "tool", ("2",))], {"model": 0, "tool": 6, "human": 0, "runtime": 4}),
        ([], {"model": 0, "tool": 0, "human": 0, "runtime": 10}),
    ],
)
def test_phases_do_not_overlap(intervals: list[Any], expected: dict[str, int]) -> None:
    """Work goes before the wait, and a tool's own approval before the tool."""
    assert expected == divide(intervals, 10)
