import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.events.agent_events import AgentProcessingStartedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.llm_events import LLMRequestCompletedEvent, LLMRequestStartedEvent
from agent_runtime.events.parsing import parse_event
from agent_runtime.events.session_events import MessageAddedEvent
from agent_runtime.events.tool_events import HITLApprovalRequestedEvent, ToolApprovalRequiredEvent
from telemetry.identity import root_span_id, span_id, trace_id
from telemetry.span import Span
from telemetry.span_fold import SpanFold
from telemetry.turns import NS, Deadlines
from tests.telemetry.folds import (
    FOREVER_NS,
    NOON_NS,
    ClockedStore,
    Script,
    append,
    by_id,
    copies,
    finish_turn,
    folded,
    memory,
    named,
    plain_turn,
    random_turns,
    real_lines,
    truth,
    with_restarts,
)

GRACE = Deadlines().grace


@pytest.fixture(scope="module")
def real() -> list[BaseEvent]:
    """The recorded sessions."""
    return [parse_event(line) for line in real_lines()]


@pytest.fixture(scope="module")
def in_order(real: list[BaseEvent]) -> dict[bytes, Span]:
    """Their spans, folded in order."""
    return by_id(folded(memory(real))[1])


def test_counts_equal_the_truth(in_order: dict[bytes, Span]) -> None:
    """The recorded sessions give the spans that their trajectories say."""
    counts = truth()
    expected = {
        "invoke_workflow": counts["turns_started"],
        "invoke_agent": counts["turns_started"],
        "chat": counts["llm_requests"],
        "execute_tool": sum(counts["tool_requested"].values()),
        "await_approval": sum(counts["hitl_approved"].values()),
    }
    assert expected == Counter(span.name.split()[0] for span in in_order.values())


def test_no_orphans(in_order: dict[bytes, Span]) -> None:
    """Each span's parent is a span of its trace, and all lead up to the turn's own."""
    for span in in_order.values():
        top = span
        while top.parent_span_id:
            assert span.trace_id == in_order[top.parent_span_id].trace_id
            top = in_order[top.parent_span_id]
        assert top.name == "invoke_workflow"


def test_every_span_says_where_it_belongs(in_order: dict[bytes, Span], real: list[BaseEvent]) -> None:
    """Session, conversation, correlation id and event id stand on every span, and the trace is the correlation id."""
    events = {event.event_id: event for event in real}
    for span in in_order.values():
        event = events[str(span.attributes["agent_runtime.event_id"])]
        assert span.trace_id.hex() == event.correlation_id == span.attributes["agent_runtime.correlation_id"]
        assert span.attributes["session.id"] == span.attributes["gen_ai.conversation.id"] == event.session_id


def test_phases_add_up(in_order: dict[bytes, Span]) -> None:
    """The phases of each turn are its wall time, none is negative."""
    for span in named(in_order.values(), "invoke_workflow"):
        phases = [
            span.attributes[f"agent_runtime.turn.{name}_seconds"] for name in ("model", "tool", "human", "runtime")
        ]
        assert min(phases) >= 0  # type: ignore[type-var]
        assert (span.end_ns - span.start_ns) // 1000 == round(sum(phases) * 1_000_000)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 37, 100_000])
def test_order_of_arrival_does_not_matter(
    real: list[BaseEvent], in_order: dict[bytes, Span], seed: int, batch: int
) -> None:
    """Shuffled, and every event twice: the same spans."""
    events = real * 2
    random.Random(seed).shuffle(events)
    assert in_order == by_id(folded(memory(events, batch, step_ns=100_000), chunk=seed * 331)[1])


def test_reverse_order(real: list[BaseEvent], in_order: dict[bytes, Span]) -> None:
    """Backwards: the same spans."""
    assert in_order == by_id(folded(memory(real[::-1]))[1])


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_order_of_random_turns(rng: random.Random) -> None:
    """Turns with everything that happens to turns, in any order and chunks: the same spans, once each, sound traces."""
    events = random_turns(rng)
    expected = by_id(folded(memory(events, 1))[1])
    check_traces(expected)
    shuffled = rng.sample(events, len(events))
    assert expected == by_id(folded(memory(shuffled, rng.randrange(1, 30)), chunk=rng.randrange(1, 50))[1])
    assert expected == by_id(folded(memory(events[::-1], 1000))[1])


def check_traces(spans: dict[bytes, Span]) -> None:
    """No orphan, no circle, no negative time, ids that are not zero."""
    for span in spans.values():
        assert span.end_ns >= span.start_ns
        assert any(span.span_id)
        assert any(span.trace_id)
        seen = set()
        top = span
        while top.parent_span_id:
            assert top.span_id not in seen
            seen.add(top.span_id)
            top = spans[top.parent_span_id]
            assert span.trace_id == top.trace_id
        assert top.name == "invoke_workflow"


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False))
def test_folding_again_gives_the_same(rng: random.Random) -> None:
    """Whenever somebody looks in between, and with dumps and loads on the way: the same bytes, the same spans.

    Events come slowly here, so that turns are looked at, given out in part, settled, and late.
    """
    events = with_restarts(rng, random_turns(rng, 5))
    store = memory(events, rng.randrange(1, 8), step_ns=rng.choice([NS // 2, 3 * NS, 20 * NS]))
    deadlines = Deadlines(late=12 * NS, turn=30 * NS, approval=60 * NS)
    whole = SpanFold(store, deadlines)
    whole.apply(store.read(0, 10_000))
    whole.settle(FOREVER_NS)

    fold = SpanFold(store, deadlines)
    spans: list[Span] = []
    while chunk := store.read(fold.position, rng.randrange(1, 9)):
        fold.apply(chunk)
        if following := store.read(fold.position, 1):
            last, until = chunk[-1].recorded_ns, following[0].recorded_ns
            # Before a start the service was down: nobody looked.
            down = following[0].event_type == "system_startup"
            for moment in sorted(rng.randrange(last, until) for _ in range(3)) if until > last and not down else ():
                fold.settle(moment)
        spans += fold.take()
        if rng.random() < 0.3:
            state = fold.dump()
            fold = SpanFold(store, deadlines)
            fold.load(state)
            assert state == fold.dump()
    fold.settle(FOREVER_NS)
    spans += fold.take()
    assert whole.dump() == fold.dump()
    assert whole.take() == spans


def test_a_crash_exports_the_same_again(tmp_path: Path, real: list[BaseEvent]) -> None:
    """From any checkpoint the spans that were given out after it are given out again, equal; over SQLite."""
    events = real[:1500]
    store = ClockedStore(tmp_path / "events.db")
    for first in range(0, len(events), 50):
        store.clock.now_ns += NS
        store.append(copies(events[first : first + 50]))
    fold = SpanFold(store)
    states: list[tuple[bytes, int]] = []
    spans: list[Span] = []
    while chunk := store.read(fold.position, 100):
        fold.apply(chunk)
        spans += fold.take()
        states.append((fold.dump(), len(spans)))
    fold.settle(FOREVER_NS)
    spans += fold.take()
    for state, given_out in states:
        again = SpanFold(store)
        again.load(state)
        while chunk := store.read(again.position, 77):
            again.apply(chunk)
        again.settle(FOREVER_NS)
        assert spans[given_out:] == again.take()
        assert fold.dump() == again.dump()
    store.close()


def test_closed_spans_of_a_turn_that_waits() -> None:
    """While an approval is open, what has closed is given out after the grace; the decision brings the rest."""
    turn = plain_turn(decided=False)
    store = memory(turn.events)
    fold = SpanFold(store)
    fold.apply(store.read(0, 100))
    fold.settle(NOON_NS + GRACE)
    assert [] == fold.take()
    fold.settle(NOON_NS + GRACE + 1)
    early = fold.take()
    assert ["chat gpt-4o"] == [span.name for span in early]
    fold.settle(NOON_NS + 5 * 3600 * NS)
    assert ([], 1) == (fold.take(), fold.open_turns)

    told = len(turn.events)
    finish_turn(turn, turn.events[5], turn.events[1], wait=5 * 3600)
    append(store, turn.events[told:], start_ns=NOON_NS + 5 * 3600 * NS)
    fold.apply(store.read(told, 100))
    fold.settle(NOON_NS + 5 * 3600 * NS + GRACE + 1)
    late = fold.take()
    names = {"invoke_workflow", "invoke_agent coder", "await_approval write_file", "execute_tool write_file"}
    assert names == {span.name for span in late}
    assert by_id(folded(memory(turn.events))[1]) == by_id(early + late)


def test_a_turn_that_never_ends() -> None:
    """At the deadline what is open is closed and marked, the turn too."""
    turn = Script("b" * 32)
    agent = turn.tell(AgentProcessingStartedEvent, agent_type="coder", message="m")
    turn.wait(2)
    turn.tell(LLMRequestStartedEvent, agent, model="gpt-4o")
    store = memory(turn.events)
    fold = SpanFold(store)
    fold.apply(store.read(0, 100))
    deadline = NOON_NS + Deadlines().turn
    fold.settle(deadline)
    assert [] == fold.take()
    fold.settle(deadline + 1)
    assert {"chat gpt-4o": True, "invoke_agent coder": True, "invoke_workflow": True} == {
        span.name: span.attributes.get("agent_runtime.incomplete") for span in fold.take()
    }


def test_late_events_are_exported_once() -> None:
    """A step that comes after its turn was settled is given out once; the root and what had left do not come again."""
    turn = plain_turn()
    store = memory(turn.events)
    fold = SpanFold(store)
    fold.apply(store.read(0, 100))
    fold.settle(NOON_NS + 2 * GRACE)
    assert 5 == len(fold.take())
    told = len(turn.events)
    call = turn.tell(LLMRequestStartedEvent, turn.events[1], model="late")
    turn.tell(LLMRequestCompletedEvent, call, model="late", duration_ms=1.0)
    append(store, turn.events[told:], start_ns=NOON_NS + 100 * NS)
    fold.apply(store.read(told, 100))
    fold.settle(FOREVER_NS)
    spans = fold.take()
    assert [("chat late", span_id(turn.events[1].event_id, "invoke_agent"))] == [
        (span.name, span.parent_span_id) for span in spans
    ]


def test_an_approval_is_one_span_however_it_is_announced() -> None:
    """An announcement that arrives after the span was given out does not make another, also with an earlier time."""
    turn = Script("c" * 32)
    agent = turn.tell(AgentProcessingStartedEvent, agent_type="coder", message="m")
    call = {"tool_name": "t", "call_id": "1"}
    first = turn.tell(ToolApprovalRequiredEvent, agent, arguments={}, **call)  # type: ignore[arg-type]
    turn.wait(1)
    second = turn.tell(HITLApprovalRequestedEvent, agent, arguments={}, **call)  # type: ignore[arg-type]
    turn.wait(1)
    decision = plain_turn().events[6]
    decided = turn.tell(type(decision), second, decision="reject", **call)
    store = memory([agent, second, decided])
    append(store, [first], start_ns=NOON_NS + 20 * NS)
    spans = folded(store)[1]
    assert 1 == len(named(spans, "await_approval"))


def test_a_foreign_cause_is_a_link() -> None:
    """A cause in another turn links to it, and says so on the span; one that nobody knows changes nothing."""
    other = plain_turn("d" * 32, "s-2")
    turn = Script("e" * 32)
    turn.tell(AgentProcessingStartedEvent, other.events[4], agent_type="coder", message="m")
    spans = folded(memory([*other.events, *turn.events]))[1]
    span = next(span for span in named(spans, "invoke_agent") if span.trace_id == trace_id("e" * 32))
    assert (root_span_id("e" * 32), [(trace_id("d" * 32), root_span_id("d" * 32))]) == (
        span.parent_span_id,
        [link[:2] for link in span.links],
    )
    assert other.events[4].event_id == span.attributes["agent_runtime.cause.event_id"]


def test_a_cause_that_comes_later_does_not_change_the_past() -> None:
    """Whether a foreign cause was known is decided by recording times, so a fold of the whole past decides the same."""
    other = plain_turn("d" * 32, "s-2")
    turn = Script("e" * 32)
    turn.tell(AgentProcessingStartedEvent, other.events[4], agent_type="coder", message="m")
    deadlines = Deadlines(turn=100 * NS)
    store = memory(turn.events)
    live = SpanFold(store, deadlines)
    live.apply(store.read(0, 10))
    live.settle(NOON_NS + 150 * NS)
    spans = live.take()
    append(store, other.events, start_ns=NOON_NS + 200 * NS)
    assert spans == [span for span in folded(store, deadlines)[1] if span.trace_id == trace_id("e" * 32)]
    assert [()] == [span.links for span in named(spans, "invoke_agent")]


def test_turns_of_a_session_are_linked() -> None:
    """Each turn's own span links to the one that began before it in the session."""
    turns = []
    for number in range(4):
        turn = plain_turn(f"{number:032x}x")
        for event in turn.events:
            event.time_us += number * 1_000_000_000
        turns.append(turn)
    events = [event for turn in turns for event in turn.events]
    random.Random(5).shuffle(events)
    roots = named(folded(memory(events, 3))[1], "invoke_workflow")
    assert [(), *((root_span_id(turn.correlation_id or ""),) for turn in turns[:-1])] == [
        tuple(link[1] for link in root.links) for root in roots
    ]


def test_messages_are_span_events_and_bounded() -> None:
    """Messages stand on the span around them, the newest 128 of them."""
    turn = Script("f" * 32)
    agent = turn.tell(AgentProcessingStartedEvent, agent_type="coder", message="m")
    for _ in range(200):
        turn.tell(MessageAddedEvent, agent, role="assistant", content_length=1)
    span = named(folded(memory(turn.events))[1], "invoke_agent")[0]
    assert (128, 72) == (len(span.events), span.dropped_events)


def test_ten_thousand_causes_in_a_row() -> None:
    """A long chain of causes, a circle of them, and a turn without end cost what their events cost."""
    turn = Script("1" * 32)
    last: BaseEvent | None = None
    for _ in range(25_000):
        last = turn.tell(MessageAddedEvent, last, role="user", content_length=1)
    turn.events[0].causation_id = turn.events[9_000].event_id
    spans = folded(memory(turn.events, batch=1000))[1]
    assert {"invoke_workflow": 1} == Counter(span.name for span in spans)


def test_model_call_without_a_shared_request_id() -> None:
    """Both ends of a model call mint ids of their own if none is given; they are one span all the same."""
    turn = Script("2" * 32)
    agent = turn.tell(AgentProcessingStartedEvent, agent_type="coder", message="m")
    turn.tell(LLMRequestStartedEvent, agent, model="gpt-4o", provider="openai")
    turn.wait(3)
    turn.tell(LLMRequestCompletedEvent, agent, model="gpt-4o", duration_ms=3000.0)
    spans = named(folded(memory(turn.events))[1], "chat")
    assert [(3 * NS, "openai")] == [(s.end_ns - s.start_ns, s.attributes["gen_ai.provider.name"]) for s in spans]
