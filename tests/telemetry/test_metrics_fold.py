import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.agents.definitions import AGENTS
from agent_runtime.events.agent_events import (
    AgentErrorOccurredEvent,
    AgentProcessingCompletedEvent,
    AgentProcessingStartedEvent,
)
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.llm_events import LLMRequestCompletedEvent, LLMRequestFailedEvent, LLMRequestStartedEvent
from agent_runtime.events.parsing import parse_event
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.tool_events import (
    HITLApprovalRequestedEvent,
    HITLDecisionMadeEvent,
    ToolApprovalRequiredEvent,
    ToolExecutionCompletedEvent,
    ToolExecutionFailedEvent,
    ToolExecutionRequestedEvent,
    ToolExecutionStartedEvent,
)
from agent_runtime.tools import Workspace, standard_tools
from telemetry import attach
from telemetry.bindings import KNOWN_VALUES
from telemetry.families import HistogramSeries
from telemetry.metrics_fold import MetricsFold
from telemetry.turns import NS, Deadlines
from tests.telemetry.folds import (
    FOREVER_NS,
    NOON_NS,
    PRICES,
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
    series,
    total,
    truth,
    with_restarts,
)

GRACE = Deadlines().grace


@pytest.fixture(scope="module")
def real() -> list[BaseEvent]:
    """The recorded sessions."""
    return [parse_event(line) for line in real_lines()]


@pytest.fixture(scope="module")
def in_order(real: list[BaseEvent]) -> dict[Any, Any]:
    """Their series, folded in order."""
    return series(folded(memory(real))[0])


def test_series_equal_the_truth(real: list[BaseEvent]) -> None:
    """Every count that the trajectories give, by type and by tool."""
    counts = truth()
    fold, _ = folded(memory(real))
    by_type = {kind: total(fold, "agent_runtime_events_total", event_type=kind) for kind in counts["by_type"]}
    assert counts["by_type"] == by_type
    tools = counts["tool_requested"]
    requested = {tool: total(fold, "agent_runtime_tool_requests_total", gen_ai_tool_name=tool) for tool in tools}
    assert tools == requested
    ran = {tool: total(fold, "gen_ai_execute_tool_duration_seconds", gen_ai_tool_name=tool) for tool in tools}
    assert tools == ran
    succeeded = {
        tool: total(fold, "gen_ai_execute_tool_duration_seconds", gen_ai_tool_name=tool, error_type="")
        for tool in tools
    }
    assert {tool: count - counts["tool_failed"].get(tool, 0) for tool, count in tools.items()} == succeeded
    for name, extra in (
        ("agent_runtime_hitl_requests_total", {}),
        ("agent_runtime_hitl_decisions_total", {"decision": "approve"}),
        ("agent_runtime_hitl_wait_seconds", {"decision": "approve"}),
    ):
        approved = {tool: total(fold, name, gen_ai_tool_name=tool, **extra) for tool in counts["hitl_approved"]}
        assert counts["hitl_approved"] == approved
    expected = {
        "gen_ai_client_inference_duration_seconds": counts["llm_requests"],
        "gen_ai_client_inference_usage_input_tokens_total": counts["prompt_tokens"],
        "gen_ai_client_inference_usage_output_tokens_total": counts["completion_tokens"],
        "gen_ai_invoke_agent_duration_seconds": counts["turns_completed"],
        "gen_ai_invoke_workflow_duration_seconds": counts["turns_started"],
        "agent_runtime_sessions_total": counts["sessions"],
        "agent_runtime_sessions_active": 0,
        "agent_runtime_agents_active": 0,
        "agent_runtime_agent_switches_total": counts["switches"],
        "agent_runtime_messages_total": counts["messages_user"] + counts["messages_assistant"],
        "agent_runtime_hitl_pending": 0,
        "agent_runtime_turns_open": 0,
        "agent_runtime_late_events_total": 0,
        "agent_runtime_negative_durations_total": 0,
        "agent_runtime_label_overflow_total": 0,
    }
    assert expected == {name: total(fold, name) for name in expected}


def test_metrics_and_spans_agree(real: list[BaseEvent]) -> None:
    """The sum of each duration is the sum of its spans' durations, and the phases' sum is that of the turns."""
    fold, spans = folded(memory(real))
    sums = {
        family.metric.name: round(sum(one.sum for one in family.series) * NS)  # type: ignore[union-attr]
        for family in fold.families()
        if family.metric.type == "histogram"
    }
    pairs = {
        "gen_ai_invoke_workflow_duration_seconds": "invoke_workflow",
        "gen_ai_invoke_agent_duration_seconds": "invoke_agent",
        "gen_ai_execute_tool_duration_seconds": "execute_tool",
        "gen_ai_client_inference_duration_seconds": "chat",
        "agent_runtime_hitl_wait_seconds": "await_approval",
    }
    for metric, operation in pairs.items():
        assert sum(span.end_ns - span.start_ns for span in named(spans, operation)) == sums[metric]
    phases = round(total(fold, "agent_runtime_turn_seconds_total") * NS)
    assert sums["gen_ai_invoke_workflow_duration_seconds"] == phases


def test_exemplars_name_exported_spans(real: list[BaseEvent]) -> None:
    """Each exemplar's span was exported, in its trace, with the operation that the metric measures."""
    fold, spans = folded(memory(real))
    exported = by_id(spans)
    found = 0
    for family in fold.families():
        for one in family.series:
            for exemplar in one.exemplars if isinstance(one, HistogramSeries) else ():
                if exemplar is not None:
                    found += 1
                    span = exported[bytes.fromhex(exemplar.span_id)]
                    assert exemplar.trace_id == span.trace_id.hex()
    assert found > 50


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 37, 100_000])
def test_order_of_arrival_does_not_matter(
    real: list[BaseEvent], in_order: dict[Any, Any], seed: int, batch: int
) -> None:
    """Shuffled, and every event twice: the same series."""
    events = real * 2
    random.Random(seed).shuffle(events)
    assert in_order == series(folded(memory(events, batch, step_ns=100_000), chunk=seed * 331)[0])


def test_reverse_order(real: list[BaseEvent], in_order: dict[Any, Any]) -> None:
    """Backwards: the same series."""
    assert in_order == series(folded(memory(real[::-1]))[0])


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_order_of_random_turns(rng: random.Random) -> None:
    """Turns with everything that happens to turns, in any order and any chunks: the same series."""
    events = random_turns(rng)
    expected = series(folded(memory(events, 1))[0])
    shuffled = rng.sample(events, len(events))
    assert expected == series(folded(memory(shuffled, rng.randrange(1, 30)), chunk=rng.randrange(1, 50))[0])
    assert expected == series(folded(memory(events[::-1], 1000))[0])


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False))
def test_counted_once_each(rng: random.Random) -> None:
    """Every end is in its histogram once, every wait has both ends, and nothing is negative."""
    events = random_turns(rng)
    fold, spans = folded(memory(rng.sample(events, len(events))))
    kinds = [event.event_type for event in events]
    for metric, ends in {
        "gen_ai_invoke_agent_duration_seconds": ("agent_processing_completed",),
        "gen_ai_execute_tool_duration_seconds": ("tool_execution_completed", "tool_execution_failed"),
        "gen_ai_client_inference_duration_seconds": ("llm_request_completed", "llm_request_failed"),
    }.items():
        assert sum(kinds.count(end) for end in ends) == total(fold, metric)  # type: ignore[arg-type]
    for family in fold.families():
        if family.metric.type != "gauge":
            for one in family.series:
                assert (one.sum if isinstance(one, HistogramSeries) else one.value) >= 0
    turns = {event.correlation_id for event in events} - {None}
    assert len(turns) == total(fold, "gen_ai_invoke_workflow_duration_seconds") == len(named(spans, "invoke_workflow"))


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False))
def test_folding_again_gives_the_same_bytes(rng: random.Random) -> None:
    """Whenever somebody looks in between, and whether the state was dumped and loaded on the way: the same bytes."""
    events = with_restarts(rng, random_turns(rng, 5))
    store = memory(events, rng.randrange(1, 8), step_ns=rng.choice([NS // 2, 3 * NS, 20 * NS]))
    deadlines = Deadlines(late=12 * NS, turn=30 * NS, approval=60 * NS)
    whole = MetricsFold(store, deadlines, prices=PRICES)
    whole.apply(store.read(0, 10_000))
    whole.settle(FOREVER_NS)

    fold = MetricsFold(store, deadlines, prices=PRICES)
    while chunk := store.read(fold.position, rng.randrange(1, 9)):
        fold.apply(chunk)
        if following := store.read(fold.position, 1):
            last, until = chunk[-1].recorded_ns, following[0].recorded_ns
            # Before a start the service was down: nobody looked.
            down = following[0].event_type == "system_startup"
            for moment in sorted(rng.randrange(last, until) for _ in range(3)) if until > last and not down else ():
                fold.settle(moment)
        fold.families()
        if rng.random() < 0.3:
            state = fold.dump()
            fold = MetricsFold(store, deadlines, prices=PRICES)
            fold.load(state)
            assert state == fold.dump()
    fold.settle(FOREVER_NS)
    assert whole.dump() == fold.dump()


def test_continues_from_any_checkpoint(tmp_path: Path, real: list[BaseEvent]) -> None:
    """From any checkpoint the fold comes to the same bytes, over SQLite."""
    events = real[:1500]
    store = ClockedStore(tmp_path / "events.db")
    for first in range(0, len(events), 50):
        store.clock.now_ns += NS
        store.append(copies(events[first : first + 50]))
    fold = MetricsFold(store, prices=PRICES)
    states: list[bytes] = []
    while chunk := store.read(fold.position, 100):
        fold.apply(chunk)
        states.append(fold.dump())
    fold.settle(FOREVER_NS)
    for state in states:
        again = MetricsFold(store, prices=PRICES)
        again.load(state)
        while chunk := store.read(again.position, 77):
            again.apply(chunk)
        again.settle(FOREVER_NS)
        assert fold.dump() == again.dump()
    store.close()


def test_another_definition_is_another_version() -> None:
    """Other deadlines or another label budget give another version, so that everything is folded again."""
    store = MemoryStore()
    versions = [
        MetricsFold(store, deadlines, budget, PRICES).version
        for deadlines, budget in ((Deadlines(), 100), (Deadlines(grace=1), 100), (Deadlines(), 99))
    ]
    assert 3 == len(set(versions))


def one_turn(*events: tuple[type[BaseEvent], dict[str, Any]], wait: float = 1.0) -> list[BaseEvent]:
    """A turn of an agent with the given events, a second apart, each caused by the one before."""
    turn = Script("9" * 32)
    last = turn.tell(AgentProcessingStartedEvent, agent_type="coder", message="m")
    for kind, keys in events:
        turn.wait(wait)
        last = turn.tell(kind, last, **keys)
    return turn.events


MODEL: dict[str, Any] = {"model": "gpt-4o", "request_id": "r"}


@pytest.mark.parametrize("cause", [True, False])
@pytest.mark.parametrize("backwards", [True, False])
def test_provider_comes_from_the_start(cause: bool, backwards: bool) -> None:
    """A completion without a provider gets it from its start, by cause or by request id, whichever arrives first."""
    events = one_turn(
        (LLMRequestStartedEvent, {**MODEL, "provider": "openai"}),
        (LLMRequestCompletedEvent, {**MODEL, "duration_ms": 5.0}),
    )
    if not cause:
        events[-1].causation_id = None
    fold, _ = folded(memory(events[::-1] if backwards else events))
    assert 1 == total(fold, "gen_ai_client_inference_duration_seconds", gen_ai_provider_name="openai")


@pytest.mark.parametrize("backwards", [True, False])
def test_duration_of_a_failure(backwards: bool) -> None:
    """A failure without a duration took the time since its start; one without a start counts with none."""
    failure = {"error_message": "no", "error_type": "IOError"}
    call = {"tool_name": "t", "call_id": "1"}
    events = one_turn((ToolExecutionStartedEvent, call), (ToolExecutionFailedEvent, {**call, **failure}), wait=3)
    other = Script("8" * 32)
    other.tell(ToolExecutionFailedEvent, **call, **failure)  # type: ignore[arg-type]
    events += other.events
    fold, _ = folded(memory(events[::-1] if backwards else events))
    family = next(f for f in fold.families() if f.metric.name == "gen_ai_execute_tool_duration_seconds")
    assert [(("t", "IOError"), 2, 3.0)] == [
        (one.labels, sum(one.counts), one.sum)  # type: ignore[union-attr]
        for one in family.series
        if sum(one.counts)  # type: ignore[union-attr]
    ]


@pytest.mark.parametrize("backwards", [True, False])
@pytest.mark.parametrize("error_first", [True, False])
def test_why_a_run_failed(backwards: bool, error_first: bool) -> None:
    """A failed run has the type of its error, whether that is told before or after, and whichever arrives first."""
    ended = (AgentProcessingCompletedEvent, {"agent_type": "coder", "duration_ms": 1000.0, "success": False})
    error = (AgentErrorOccurredEvent, {"agent_type": "coder", "error_message": "no", "error_type": "Timeout"})
    events = one_turn(*((error, ended) if error_first else (ended, error)))  # type: ignore[arg-type]
    fold, spans = folded(memory(events[::-1] if backwards else events))
    assert 1 == total(fold, "gen_ai_invoke_agent_duration_seconds", error_type="Timeout")
    assert 1 == total(fold, "gen_ai_invoke_agent_duration_seconds")
    assert 1 == total(fold, "gen_ai_invoke_workflow_duration_seconds", error_type="Timeout")
    assert "Timeout" == named(spans, "invoke_agent")[0].attributes["error.type"]


def test_each_failed_run_has_its_own_error() -> None:
    """Two failed runs of one agent in one turn have the error that is nearest to each."""
    ended = (AgentProcessingCompletedEvent, {"agent_type": "coder", "duration_ms": 1000.0, "success": False})
    began = (AgentProcessingStartedEvent, {"agent_type": "coder", "message": ""})
    error = {"agent_type": "coder", "error_message": "no"}
    events = one_turn(
        (AgentErrorOccurredEvent, {**error, "error_type": "A"}),
        ended,
        began,
        began,
        (AgentErrorOccurredEvent, {**error, "error_type": "B"}),
        ended,
    )
    fold, _ = folded(memory(events))
    name = "gen_ai_invoke_agent_duration_seconds"
    assert {"A": 1, "B": 1} == {kind: total(fold, name, error_type=kind) for kind in "AB"}


def test_events_without_a_turn_are_counted() -> None:
    """Without a correlation id: counted as they are, with what they lack unknown, at once."""
    loose = Script(None)
    loose.tell(LLMRequestCompletedEvent, **MODEL, duration_ms=5.0)
    loose.tell(LLMRequestFailedEvent, **MODEL, error="no", error_type="E")
    loose.tell(AgentProcessingCompletedEvent, agent_type="coder", duration_ms=1.0, success=False)
    store = memory(loose.events)
    fold = MetricsFold(store, prices=PRICES)
    fold.apply(store.read(0, 10))
    assert 2 == total(fold, "gen_ai_client_inference_duration_seconds", gen_ai_provider_name="unknown")
    assert 1 == total(fold, "gen_ai_invoke_agent_duration_seconds", error_type="error")
    assert 0 == total(fold, "agent_runtime_turns_open")


def test_clocks_that_go_backwards_are_counted() -> None:
    """An end before its beginning lasts no time, and is counted once."""
    call = {"tool_name": "t", "call_id": "1"}
    events = one_turn((ToolExecutionStartedEvent, call), (ToolExecutionCompletedEvent, {**call, "duration_ms": 1.0}))
    events[-1].time_us = events[0].time_us - 5_000_000
    fold, spans = folded(memory(events))
    assert (1, 0) == (
        total(fold, "agent_runtime_negative_durations_total"),
        named(spans, "execute_tool")[0].end_ns - named(spans, "execute_tool")[0].start_ns,
    )


def test_gauges_of_a_turn_that_waits() -> None:
    """Open turns, pending approvals and the oldest of them follow the events; the wait is counted when it is over."""
    turn = plain_turn(decided=False)
    store = memory(turn.events)
    fold = MetricsFold(store, prices=PRICES)
    fold.apply(store.read(0, 100))
    fold.settle(NOON_NS + 3600 * NS)
    oldest = "agent_runtime_hitl_oldest_pending_timestamp_seconds"
    asked = turn.events[5]
    gauges = ("agent_runtime_turns_open", "agent_runtime_hitl_pending", oldest)
    assert [1, 1, asked.time_us / 1e6] == [total(fold, name) for name in gauges]
    told = len(turn.events)
    finish_turn(turn, asked, turn.events[1], wait=5 * 3600)
    append(store, turn.events[told:], start_ns=NOON_NS + 5 * 3600 * NS)
    fold.apply(store.read(told, 100))
    fold.settle(NOON_NS + 5 * 3600 * NS + GRACE)
    assert [1, 0, 0] == [total(fold, name) for name in gauges]
    fold.settle(NOON_NS + 5 * 3600 * NS + GRACE + 1)
    assert [0, 0, 0] == [total(fold, name) for name in gauges]
    waits = next(f for f in fold.families() if f.metric.name == "agent_runtime_hitl_wait_seconds").series
    assert [(("write_file", "approve"), 5 * 3600.0)] == [(one.labels, one.sum) for one in waits]  # type: ignore[union-attr]
    human = total(fold, "agent_runtime_turn_seconds_total", phase="human")
    assert 5 * 3600.0 == human


def test_a_turn_that_never_ends_is_incomplete() -> None:
    """At the deadline it is settled as incomplete, and open no more."""
    store = memory(one_turn((LLMRequestStartedEvent, MODEL)))
    fold = MetricsFold(store, prices=PRICES)
    fold.apply(store.read(0, 10))
    fold.settle(NOON_NS + Deadlines().turn)
    assert 1 == total(fold, "agent_runtime_turns_open")
    fold.settle(NOON_NS + Deadlines().turn + 1)
    assert (0, 1) == (
        total(fold, "agent_runtime_turns_open"),
        total(fold, "gen_ai_invoke_workflow_duration_seconds", error_type="incomplete"),
    )


def test_late_events_are_counted() -> None:
    """What comes after its turn was settled is counted as late, by event, and the turn is not counted again."""
    turn = plain_turn()
    store = memory(turn.events[:-2])
    append(store, turn.events[-2:], start_ns=NOON_NS + 5000 * NS)
    fold, _ = folded(store)
    assert (2, 1) == (
        total(fold, "agent_runtime_late_events_total"),
        total(fold, "gen_ai_invoke_workflow_duration_seconds"),
    )


def test_an_approval_announced_twice_counts_once() -> None:
    """Both announcements of one call are one request; a second request under the same call id is another."""
    call = {"tool_name": "t", "call_id": "1", "arguments": {}}
    decided = {"tool_name": "t", "call_id": "1", "decision": "EDIT"}
    both: list[tuple[type[BaseEvent], dict[str, Any]]] = [
        (HITLApprovalRequestedEvent, call),
        (ToolApprovalRequiredEvent, call),
        (HITLDecisionMadeEvent, decided),
    ]
    fold, spans = folded(memory(one_turn(*both, *both)))
    names = (
        "agent_runtime_hitl_requests_total",
        "agent_runtime_hitl_decisions_total",
        "agent_runtime_hitl_wait_seconds",
    )
    assert [2, 2, 2] == [total(fold, name) for name in names]
    assert 2 == len(named(spans, "await_approval"))


def test_a_broken_event_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """An event that the fold can't take is logged and skipped; its neighbours count."""
    events = plain_turn().events
    store = memory(events)
    next(event for event in store.read(0, 100) if event.event_type == "tool_approval_required").data = {}
    fold, spans = folded(store)
    assert ["metrics can't take event"] == [
        record.message[:24] for record in caplog.records if "take" in record.message
    ]
    assert 1 == total(fold, "gen_ai_client_inference_duration_seconds")
    assert "chat gpt-4o" in {span.name for span in spans}


async def test_tool_names_without_end() -> None:
    """At most 2,000 series in the whole exposition, flat memory, overflow counted. benchmarks/bench_labels.py has a
    million of them."""
    telemetry = attach(EventBus(MemoryStore(capacity=1000)), environ={"OTEL_TRACES_EXPORTER": "none"})
    fold, position = telemetry.metrics, 0
    peaks = []
    requested = ToolExecutionRequestedEvent(tool_name="t", arguments={}, call_id="c", agent="coder")
    completed = ToolExecutionCompletedEvent(tool_name="t", call_id="c", duration_ms=3.0)
    tracemalloc.start()
    for part in range(5):
        for number in range(part * 4_000, part * 4_000 + 4_000):
            for event in (requested, completed):
                position += 1
                event.data = {**event.data, "tool_name": f"tool {number}", "call_id": f"call {number}"}
                event.position, event.recorded_ns = position, NOON_NS + position
                fold.apply([event])
        peaks.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    body, _ = telemetry.render(None)
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    assert len(lines) <= 2_000
    assert peaks[4] - peaks[3] < 1_000_000
    overflow = total(fold, "agent_runtime_label_overflow_total", label="gen_ai_tool_name")
    assert 2 * (20_000 - 99) == overflow
    assert 20_000 == total(fold, "agent_runtime_tool_requests_total")


def test_sums_beyond_64_bits_are_kept() -> None:
    """The longest durations and the largest counts that an event may carry add up exactly, and survive a checkpoint."""
    longest = 10 * 366 * 86_400_000.0
    ended = (LLMRequestCompletedEvent, {**MODEL, "duration_ms": longest, "prompt_tokens": 2**63 - 1})
    store = memory(one_turn(*[ended] * 40))
    fold, _ = folded(store)
    again = MetricsFold(store, prices=PRICES)
    again.load(fold.dump())
    assert 40 * (2**63 - 1) == total(again, "gen_ai_client_inference_usage_input_tokens_total")
    assert series(fold) == series(again)


def test_our_own_names_come_first(tmp_path: Path) -> None:
    """Agents and tools of the runtime have series of their own also when others have used the budget up."""
    workspace = Workspace(tmp_path)
    assert set(standard_tools(workspace).names) == KNOWN_VALUES["gen_ai_tool_name"]
    workspace.close()
    assert set(AGENTS) == KNOWN_VALUES["gen_ai_agent_name"]
    fold = MetricsFold(MemoryStore(), label_budget=3)
    names = ["a", "b", "c", "d", "echo", "move_file"]
    for position, name in enumerate(names, 1):
        event = ToolExecutionRequestedEvent(tool_name=name, arguments={}, call_id="c", agent="x", session_id="s")
        event.position, event.recorded_ns = position, NOON_NS
        fold.apply([event])
    counted = {name: total(fold, "agent_runtime_tool_requests_total", gen_ai_tool_name=name) for name in names}
    assert {"a": 1, "b": 1, "c": 0, "d": 0, "echo": 1, "move_file": 1} == counted
    assert 2 == total(fold, "agent_runtime_tool_requests_total", gen_ai_tool_name="_other")
