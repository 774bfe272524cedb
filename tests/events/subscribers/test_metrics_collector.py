import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.events.agent_events import (
    AgentErrorOccurredEvent,
    AgentProcessingCompletedEvent,
    AgentProcessingStartedEvent,
    AgentSwitchedEvent,
)
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.projection import ProjectionRunner
from agent_runtime.events.store.sqlite import SqliteStore
from agent_runtime.events.subscribers.metrics_collector import MetricsCollector
from agent_runtime.events.tool_events import (
    HITLApprovalRequestedEvent,
    HITLDecisionMadeEvent,
    ToolApprovalRequiredEvent,
    ToolExecutionCompletedEvent,
    ToolExecutionFailedEvent,
    ToolExecutionRequestedEvent,
)


def run_of(agent: str, duration_ms: float, success: bool = True) -> BaseEvent:
    """A finished run."""
    return AgentProcessingCompletedEvent(session_id="s", agent_type=agent, duration_ms=duration_ms, success=success)


def requested(tool: str, call_id: str = "c") -> BaseEvent:
    """A call that a model asked for."""
    return ToolExecutionRequestedEvent(session_id="s", tool_name=tool, arguments={}, call_id=call_id, agent="coder")


def completed(tool: str, call_id: str = "c") -> BaseEvent:
    """A call that went well."""
    return ToolExecutionCompletedEvent(session_id="s", tool_name=tool, call_id=call_id, duration_ms=1, result_length=2)


def failed(tool: str, call_id: str = "c") -> BaseEvent:
    """A call that went wrong."""
    return ToolExecutionFailedEvent(
        session_id="s", tool_name=tool, call_id=call_id, error_message="m", error_type="OSError"
    )


def required(tool: str, call_id: str, session_id: str = "s") -> BaseEvent:
    """The policy's announcement of an approval."""
    return ToolApprovalRequiredEvent(
        session_id=session_id, tool_name=tool, arguments={}, call_id=call_id, reason="policy"
    )


def asked(tool: str, call_id: str, session_id: str = "s") -> BaseEvent:
    """The approval manager's announcement of an approval."""
    return HITLApprovalRequestedEvent(
        session_id=session_id, tool_name=tool, arguments={}, call_id=call_id, reason="policy"
    )


def decided(tool: str, decision: str) -> BaseEvent:
    """A decision."""
    return HITLDecisionMadeEvent(
        session_id="s", call_id="c", decision=decision, tool_name=tool, original_args={}, modified_args=None
    )


def switched(from_agent: str, to_agent: str) -> BaseEvent:
    """A switch."""
    return AgentSwitchedEvent(session_id="s", from_agent=from_agent, to_agent=to_agent, reason="r")


def error_of(agent: str, error_type: str) -> BaseEvent:
    """An agent's error."""
    return AgentErrorOccurredEvent(session_id="s", agent_type=agent, error_message="m", error_type=error_type)


SOME = [
    switched("orchestrator", "coder"),
    switched("orchestrator", "coder"),
    switched("coder", "debug"),
    AgentProcessingStartedEvent(session_id="s", agent_type="coder", message="hi"),
    run_of("coder", 1000.25),
    run_of("coder", 2000.5, success=False),
    run_of("debug", 0.1),
    error_of("coder", "FileNotFoundError"),
    requested("write_file", "c1"),
    required("write_file", "c1"),
    asked("write_file", "c1"),
    decided("write_file", "approve"),
    completed("write_file", "c1"),
    requested("write_file", "c2"),
    asked("write_file", "c2"),
    decided("write_file", "REJECT"),
    requested("read_file", "c3"),
    failed("read_file", "c3"),
]
SOME_METRICS = {
    "agent_switches": {"orchestrator_to_coder": 2, "coder_to_debug": 1},
    "agent_processing": {
        "coder": {"count": 2, "total_duration_ms": 3000.75, "success_count": 1, "failure_count": 1},
        "debug": {"count": 1, "total_duration_ms": 0.1, "success_count": 1, "failure_count": 0},
    },
    "tool_executions": {
        "write_file": {"requested": 2, "completed": 1, "failed": 0, "requires_approval": 2},
        "read_file": {"requested": 1, "completed": 0, "failed": 1, "requires_approval": 0},
    },
    "hitl_decisions": {"write_file": {"APPROVE": 1, "EDIT": 0, "REJECT": 1}},
    "errors": {"coder": {"FileNotFoundError": 1}},
}
NOTHING: dict[str, dict[str, object]] = {key: {} for key in SOME_METRICS}


def metrics_of(events: list[BaseEvent]) -> dict[str, dict[str, object]]:
    """What a fresh collector says about ``events``."""
    collector = MetricsCollector()
    collector.apply(events)
    return collector.get_metrics()


def test_the_five_tables() -> None:
    """Every table has the shape and the counts that users know."""
    assert metrics_of(SOME) == SOME_METRICS


@given(st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter(chance: random.Random) -> None:
    """The same events give the same metrics in any order, a completion before its request included."""
    events = SOME[:]
    chance.shuffle(events)
    assert metrics_of(events) == SOME_METRICS


@given(st.lists(st.floats(0, 1e9, allow_nan=False), max_size=50), st.randoms(use_true_random=False))
def test_sums_of_durations_know_no_order(durations: list[float], chance: random.Random) -> None:
    """Adding floats would give other digits in another order; whole nanoseconds do not."""
    events = [run_of("a", duration) for duration in durations]
    shuffled = events[:]
    chance.shuffle(shuffled)
    assert metrics_of(shuffled) == metrics_of(events)


def test_averages_rates_and_counts() -> None:
    """The three questions, and 0 where nothing is known."""
    collector = MetricsCollector()
    collector.apply([*SOME, *(completed("t", str(i)) for i in range(2)), failed("t", "3")])
    assert collector.get_agent_avg_duration("coder") == 1500.375
    assert collector.get_tool_success_rate("t") == 2 / 3
    assert collector.get_agent_switch_count("orchestrator", "coder") == 2
    assert (
        collector.get_agent_avg_duration("nobody"),
        collector.get_tool_success_rate("nothing"),
        collector.get_agent_switch_count("coder", "orchestrator"),
    ) == (0, 0, 0)


def test_a_tool_that_has_not_ended_has_rate_0() -> None:
    """A request alone is no success and no division by zero."""
    collector = MetricsCollector()
    collector.handle(requested("t"))
    assert collector.get_tool_success_rate("t") == 0


@pytest.mark.parametrize("spelling", ["APPROVE", "approve", "Approve"])
def test_decisions_count_in_any_case(spelling: str) -> None:
    """The described service counted none, because it compared cases."""
    assert metrics_of([decided("t", spelling)])["hitl_decisions"] == {"t": {"APPROVE": 1, "EDIT": 0, "REJECT": 0}}


def test_an_unheard_of_decision_is_counted_apart() -> None:
    """It is neither lost nor a new key for each spelling."""
    events = [decided("t", "postpone"), decided("t", "maybe")]
    assert metrics_of(events)["hitl_decisions"] == {"t": {"APPROVE": 0, "EDIT": 0, "REJECT": 0, "_other": 2}}


def test_an_approval_counts_once_by_call() -> None:
    """Announced by both events, in either order, it is one; the same call id in another session is another."""
    events = [required("t", "1"), asked("t", "1"), asked("t", "2"), required("t", "2"), required("t", "1", "other")]
    assert metrics_of(events)["tool_executions"]["t"]["requires_approval"] == 3  # type: ignore[index]


@given(st.permutations([required("t", "1"), asked("t", "1"), required("t", "1"), asked("t", "1"), required("t", "1")]))
def test_a_call_id_that_is_used_again_counts_again(events: list[BaseEvent]) -> None:
    """Models reuse call ids: a call counts as often as the one or the other event announces it, in any order."""
    assert metrics_of(events)["tool_executions"]["t"]["requires_approval"] == 3  # type: ignore[index]


def test_remembered_calls_are_bounded() -> None:
    """Only the latest calls are remembered, so memory is."""
    collector = MetricsCollector(remembered_calls=2)
    collector.apply([required("t", str(i)) for i in range(3)])
    collector.handle(asked("t", "2"))
    collector.handle(asked("t", "0"))
    assert collector.get_metrics()["tool_executions"]["t"]["requires_approval"] == 4
    assert len(collector._approvals) == 2


def test_names_beyond_the_budget_are_counted_as_other() -> None:
    """A million tool names are not a million keys, and no count is lost."""
    collector = MetricsCollector(budget=2)
    for i in range(5):
        collector.apply(
            [
                completed(f"t{i}"),
                run_of(f"a{i}", 1.0),
                switched("a", f"b{i}"),
                error_of("a", f"E{i}"),
                decided(f"t{i}", "EDIT"),
            ]
        )
    metrics = collector.get_metrics()
    assert {tool: calls["completed"] for tool, calls in metrics["tool_executions"].items()} == {
        "t0": 1,
        "t1": 1,
        "_other": 3,
    }
    assert {agent: runs["count"] for agent, runs in metrics["agent_processing"].items()} == {
        "a0": 1,
        "a1": 1,
        "_other": 3,
    }
    assert metrics["agent_switches"] == {"a_to_b0": 1, "a_to_b1": 1, "_other_to__other": 3}
    assert metrics["errors"] == {"a": {"E0": 1, "E1": 1}, "_other": {"_other": 3}}
    assert {tool: sum(n.values()) for tool, n in metrics["hitl_decisions"].items()} == {"t0": 1, "t1": 1, "_other": 3}


def test_reset_counts_from_zero() -> None:
    """After a reset nothing is left, and counting goes on."""
    collector = MetricsCollector()
    collector.apply(SOME)
    collector.reset_metrics()
    assert collector.get_metrics() == NOTHING
    collector.apply(SOME)
    assert collector.get_metrics() == SOME_METRICS


def test_a_snapshot_stays_as_it_is() -> None:
    """What get_metrics gave does not change under its reader, nor can the reader change the counts."""
    collector = MetricsCollector()
    collector.apply(SOME)
    snapshot = collector.get_metrics()
    snapshot["errors"].clear()
    collector.handle(switched("coder", "debug"))
    assert snapshot["agent_switches"] == SOME_METRICS["agent_switches"]
    assert collector.get_metrics()["errors"] == SOME_METRICS["errors"]


@given(st.integers(0, len(SOME)))
def test_a_dumped_and_loaded_state_goes_on_exactly(cut: int) -> None:
    """Dumping and loading anywhere changes nothing, remembered approvals included."""
    before, after = MetricsCollector(), MetricsCollector()
    before.apply(SOME[:cut])
    after.load(before.dump())
    after.apply(SOME[cut:])
    assert after.get_metrics() == SOME_METRICS
    before.apply(SOME[cut:])
    assert after.dump() == before.dump()


def test_an_event_that_breaks_the_fold_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """One bad event, as an older store may hold it, costs neither its neighbours nor the projection."""
    bad = completed("t")
    bad.data.clear()
    assert metrics_of([bad, completed("t")])["tool_executions"] == {
        "t": {"requested": 0, "completed": 1, "failed": 0, "requires_approval": 0}
    }
    assert bad.event_id in caplog.text


async def test_attached_to_a_bus_it_counts_until_it_is_detached() -> None:
    """Attached with the priority of metrics, each event counts once though attached twice, until it is detached."""
    bus, collector = EventBus(), MetricsCollector()
    collector.attach(bus)
    detach = collector.attach(bus)
    assert [subscription.priority for subscription in bus.subscriptions] == [5]
    for event in SOME:
        await bus.publish(event, wait_for_handlers=True)
    assert collector.get_metrics() == SOME_METRICS
    detach()
    await bus.publish(switched("coder", "debug"), wait_for_handlers=True)
    assert collector.get_metrics() == SOME_METRICS


def test_as_a_projection_it_survives_a_restart_exactly(tmp_path: Path) -> None:
    """Half the events, a restart from the file, the other half and some events twice: the same counts."""

    async def part(events: list[BaseEvent]) -> dict[str, dict[str, object]]:
        store = SqliteStore(tmp_path / "events.db")
        bus, collector = EventBus(store), MetricsCollector()
        runner = ProjectionRunner(bus, collector)
        await runner.start()
        await bus.publish_many(events)
        await runner.stop()
        await bus.close()
        store.close()
        return collector.get_metrics()

    asyncio.run(part(SOME[:10]))
    assert asyncio.run(part(SOME[5:])) == SOME_METRICS
