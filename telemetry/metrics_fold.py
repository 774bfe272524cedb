"""The metrics as a fold of events: plays the METRICS table, and settles what needs several events.

Single events are played through *bindings*: the series that an event of this type with these label values touches,
found once and kept.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_types import EventType as T
from agent_runtime.events.store.base import EventStore
from telemetry.approvals import Approvals, Wait
from telemetry.families import Family
from telemetry.joins import Joins
from telemetry.metrics import METRICS, Metric, Rule
from telemetry.prices import Prices
from telemetry.series import OTHER, Counter, Histogram, LabelBudget, Observed, SeriesTable
from telemetry.spans import AGENT, MODEL, TOOL
from telemetry.steps import TurnFacts
from telemetry.turns import Deadlines, Turn, TurnBook

logger = logging.getLogger("agent_runtime.telemetry")

FOLD_VERSION = 1
MAX_BINDINGS = 10_000
ADD, ADD_FIELD, OBSERVE, COST = range(4)

KNOWN_VALUES = {
    "gen_ai_agent_name": frozenset({"orchestrator", "coder", "architect", "debug", "ask", "universal"}),
    "gen_ai_tool_name": frozenset(
        {
            "echo",
            "calculator",
            "switch_mode",
            "read_file",
            "write_file",
            "list_files",
            "create_directory",
            "execute_command",
            "search_in_code",
            "delete_file",
            "move_file",
            "attempt_completion",
            "ask_followup_question",
        }
    ),
    "decision": frozenset({"approve", "edit", "reject", "timeout"}),
    "error_type": frozenset({"", "error", "incomplete"}),
    "phase": frozenset({"model", "tool", "human", "runtime"}),
}
KNOWN_VALUES["from_agent"] = KNOWN_VALUES["to_agent"] = KNOWN_VALUES["gen_ai_agent_name"]

# Series that exist from the start: a counter that appears with its first event is invisible to rate() until the second.
PRE_CREATED: dict[str, tuple[tuple[str, ...], ...]] = {
    "agent_runtime_events_total": tuple((str(kind),) for kind in T),
    "gen_ai_invoke_workflow_duration_seconds": (("",),),
    "agent_runtime_turn_seconds_total": (("model",), ("tool",), ("human",), ("runtime",)),
    "agent_runtime_messages_total": (("user",), ("assistant",)),
    **{
        metric.name: ((),)
        for metric in METRICS
        if not metric.labels and metric.name != "agent_runtime_hitl_oldest_pending_timestamp_seconds"
    },
}

_OPERATIONS: dict[str, str] = {kind: row.operation for row in (AGENT, MODEL, TOOL) for kind in row.closes}

Binding = tuple[tuple[int, Any, Any], ...]


class _Plan:
    """The rules of one event type, and the bindings found so far by the values of the keys that they read."""

    __slots__ = ("rules", "keys", "bindings")

    def __init__(self, rules: list[tuple[Metric, Rule]]) -> None:
        self.rules = rules
        named = [label for _, rule in rules for label in (*rule.labels, rule.where) if label and label[0] != "="]
        self.keys = tuple(dict.fromkeys(named))
        self.bindings: dict[tuple[Any, ...], Binding] = {}


class MetricsFold:
    """A projection: events in, families out. ``families`` may be called from any thread.

    Args:
        store: asked for the events of turns that are loaded again or come late.
        deadlines: when what needs several events is settled.
        label_budget: distinct values a label may take.
        prices: of model calls.
    """

    name = "metrics"

    def __init__(
        self,
        store: EventStore,
        deadlines: Deadlines | None = None,
        label_budget: int = 100,
        prices: Prices | None = None,
    ) -> None:
        deadlines = deadlines or Deadlines()
        self.version = _version(deadlines, label_budget)
        self.position = 0
        self._lock = threading.Lock()
        self._prices = prices or Prices()
        self._budget = LabelBudget(label_budget, KNOWN_VALUES)
        self._tables = {metric.name: SeriesTable(metric) for metric in METRICS}
        self._plans = _compile(METRICS)
        self._recorded_ns = 0
        self._turns = TurnBook(deadlines, self._turn_looked_at, store)
        self._joins = Joins(deadlines.grace, self._play, self._agent_failed, self._count_negative)
        self._approvals = Approvals(deadlines.grace, deadlines.late, self._waited, self._requested)
        for name, label_sets in PRE_CREATED.items():
            for labels in label_sets:
                self._tables[name].cell(labels)
        self._events_total: dict[str, Counter] = {}
        self._late = self._tables["agent_runtime_late_events_total"].cell(())
        self._negative = self._tables["agent_runtime_negative_durations_total"].cell(())

    # -- folding -------------------------------------------------------------------------------------------------------

    def apply(self, events: Sequence[BaseEvent]) -> None:
        """See ``Projection.apply``."""
        with self._lock:
            take, approve, add_to_turn = self._joins.take, self._approvals.take, self._turns.add
            joined, human = self._joins.types, self._approvals.types
            totals = self._events_total
            for event in events:
                if event.recorded_ns != self._recorded_ns:
                    self._recorded_ns = event.recorded_ns
                    self._due(event.recorded_ns)
                try:
                    kind = event.event_type
                    total = totals.get(kind)
                    if total is None:
                        total = totals[kind] = self._tables["agent_runtime_events_total"].cell((str(kind),))
                    total.value += 1
                    total.shown = None
                    data = take(event) if kind in joined else event.data
                    if data is not None:
                        self._play(event, data)
                    if kind in human:
                        approve(event)
                    if event.correlation_id is not None:
                        add_to_turn(event)
                except Exception:
                    logger.exception("metrics can't take event %s", event.event_id)
                self.position = event.position

    def settle(self, now_ns: int) -> None:
        """See ``Projection.settle``."""
        with self._lock:
            self._recorded_ns = max(self._recorded_ns, now_ns)
            self._due(now_ns)

    def _due(self, now_ns: int) -> None:
        self._turns.due(now_ns)
        self._joins.due(now_ns)
        self._approvals.due(now_ns)

    def _play(self, event: BaseEvent, data: dict[str, Any]) -> None:
        """Change every series that the rules of this event's type name."""
        plan = self._plans.get(event.event_type)
        if plan is None:
            return
        get = data.get
        key = tuple([get(name) for name in plan.keys])
        binding = plan.bindings.get(key)
        if binding is None:
            binding = self._bind(plan, key)
        for op, cell, operand in binding:
            if op == ADD:
                cell.value += operand
                cell.shown = None
                continue
            if op == COST:
                cell.add(self._cost(event, data))
                continue
            value = get(operand)
            if not value and op == ADD_FIELD:
                continue
            if value is None:
                continue
            if op == ADD_FIELD:
                cell.value += value
            else:
                value = round(value * 1_000_000)
                bucket = bisect_left(cell.bounds, value)
                cell.counts[bucket] += 1
                cell.sum += value
                if event.correlation_id is not None:
                    cell.exemplars[bucket] = self._observed(event, value)
            cell.shown = None

    def _bind(self, plan: _Plan, key: tuple[Any, ...]) -> Binding:
        """Find the series for these values, each label within its budget."""
        if len(plan.bindings) >= MAX_BINDINGS:
            plan.bindings.clear()
        values = dict(zip(plan.keys, key, strict=True))
        steps: list[tuple[int, Any, Any]] = []
        overflowed: set[str] = set()
        for metric, rule in plan.rules:
            if rule.where and values[rule.where] is False:
                continue
            labels = []
            for label, source in zip(metric.labels, rule.labels, strict=True):
                value = source[1:] if source[0] == "=" else _label_value(label, values[source])
                admitted = self._budget.admit(label, value)
                if admitted != value:
                    overflowed.add(label)
                labels.append(admitted)
            cell = self._tables[metric.name].cell(tuple(labels))
            if rule.value in ("+1", "-1"):
                steps.append((ADD, cell, int(rule.value)))
            elif rule.value == "cost":
                steps.append((COST, cell, None))
            else:
                steps.append((OBSERVE if metric.type == "histogram" else ADD_FIELD, cell, rule.value))
        for label in sorted(overflowed):
            steps.append((ADD, self._tables["agent_runtime_label_overflow_total"].cell((label,)), 1))
        binding = plan.bindings[key] = tuple(steps)
        return binding

    def _cell(self, name: str, *values: str) -> Any:
        """A series by its label values, each within its budget; overflow is counted."""
        table = self._tables[name]
        labels = []
        for label, value in zip(table.metric.labels, values, strict=True):
            admitted = self._budget.admit(label, value)
            if admitted != value:
                self._tables["agent_runtime_label_overflow_total"].cell((label,)).add(1)
            labels.append(admitted)
        return table.cell(tuple(labels))

    def _observed(self, event: BaseEvent, value: int) -> Observed:
        assert event.correlation_id is not None
        return (value, event.correlation_id, _OPERATIONS[event.event_type], self._joins.opening_id, event.time_us)

    def _cost(self, event: BaseEvent, data: dict[str, Any]) -> int:
        return self._prices.cost_nanodollars(
            data["model"],
            data.get("provider"),
            data.get("prompt_tokens") or 0,
            data.get("completion_tokens") or 0,
            data.get("cached_tokens") or 0,
            event.time_us,
        )

    # -- what needs several events -------------------------------------------------------------------------------------

    def _agent_failed(self, event: BaseEvent, error_type: str) -> None:
        cell: Histogram = self._cell("gen_ai_invoke_agent_duration_seconds", event.data["agent"], error_type)
        value = round(event.data["duration_ms"] * 1_000_000)
        cell.observe(value, None if event.correlation_id is None else self._observed(event, value))

    def _count_negative(self) -> None:
        self._negative.add(1)

    def _requested(self, tool: str) -> None:
        self._cell("agent_runtime_hitl_requests_total", tool).add(1)

    def _waited(self, wait: Wait) -> None:
        value = (wait.decided_us - wait.requested_us) * 1000
        if value < 0:
            self._count_negative()
            value = 0
        cell: Histogram = self._cell("agent_runtime_hitl_wait_seconds", wait.tool, wait.decision)
        cell.observe(value, (value, wait.scope, "await_approval", wait.opening_id, wait.decided_us))

    def _turn_looked_at(self, turn: Turn, facts: TurnFacts, settled: bool, incomplete: bool) -> None:
        if not settled:
            return
        if turn.late:
            self._late.add(sum(event.position > turn.settled_at for event in turn.events))
            return
        error_type = "incomplete" if incomplete else facts.error_type()
        value = (facts.end_us - facts.start_us) * 1000
        self._cell("gen_ai_invoke_workflow_duration_seconds", error_type).observe(
            value, (value, turn.correlation_id, "", "", facts.end_us)
        )
        for phase, micros in facts.phases().items():
            self._cell("agent_runtime_turn_seconds_total", phase).add(micros * 1000)
        for step in facts.steps:
            if step.negative:
                self._count_negative()

    # -- looking -------------------------------------------------------------------------------------------------------

    def families(self) -> list[Family]:
        """The present state, in the order of METRICS, as plain data that the fold will not change."""
        with self._lock:
            self._tables["agent_runtime_turns_open"].cell(()).value = len(self._turns)
            self._tables["agent_runtime_turns_open"].cell(()).shown = None
            self._show_pending()
            return [table.family() for table in self._tables.values()]

    def _show_pending(self) -> None:
        pending = self._tables["agent_runtime_hitl_pending"]
        for cell in pending.series.values():
            cell.add(-cell.value)
        for tool, count in self._approvals.pending_by_tool().items():
            pending.cell((self._budget.admit("gen_ai_tool_name", tool),)).add(count)
        oldest = self._tables["agent_runtime_hitl_oldest_pending_timestamp_seconds"]
        oldest.series.clear()
        since_us = self._approvals.oldest_pending_us()
        if since_us is not None:
            oldest.cell(()).add(since_us * 1000)

    # -- checkpoint ----------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """See ``Projection.dump``."""
        with self._lock:
            state = {
                "position": self.position,
                "series": {name: table.dump() for name, table in self._tables.items()},
                "budget": {label: list(values) for label, values in self._budget.values.items()},
                "turns": self._turns.dump(),
                "joins": self._joins.dump(),
                "approvals": self._approvals.dump(),
            }
            return orjson.dumps(state)

    def load(self, state: bytes) -> None:
        """See ``Projection.load``."""
        with self._lock:
            kept = orjson.loads(state)
            self.position = kept["position"]
            for name, rows in kept["series"].items():
                self._tables[name].load(rows)
            for label, values in kept["budget"].items():
                for value in values:
                    self._budget.admit(label, value)
            self._turns.load(kept["turns"], self.position)
            self._joins.load(kept["joins"])
            self._approvals.load(kept["approvals"])
            for plan in self._plans.values():
                plan.bindings.clear()
            self._events_total.clear()
            self._late = self._tables["agent_runtime_late_events_total"].cell(())
            self._negative = self._tables["agent_runtime_negative_durations_total"].cell(())


def _compile(metrics: Sequence[Metric]) -> dict[str, _Plan]:
    """The rules by event type. Rules for every event are the fold's own business (``events_total``)."""
    by_type: dict[str, list[tuple[Metric, Rule]]] = {}
    for metric in metrics:
        for rule in metric.rules:
            if rule.on is not None:
                by_type.setdefault(rule.on, []).append((metric, rule))
    return {kind: _Plan(rules) for kind, rules in by_type.items()}


_NORMAL: dict[str, Callable[[str], str]] = {"decision": str.lower}


def _label_value(label: str, value: object) -> str:
    if value is None:
        return "unknown"
    normal = _NORMAL.get(label)
    return normal(str(value)) if normal is not None else str(value)


def _version(deadlines: Deadlines, label_budget: int) -> str:
    definition = repr((FOLD_VERSION, METRICS, deadlines, label_budget, OTHER))
    return blake2b(definition.encode(), digest_size=8).hexdigest()
