"""The metrics as a fold of events: plays the METRICS table, and settles what needs several events.

Single events are played through *bindings*: the series that an event of this type with these label values touches,
found once and kept.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import orjson

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_types import EventType as T
from agent_runtime.events.store.base import EventStore
from telemetry.approvals import Approvals, Wait
from telemetry.bindings import ENDS, Plan, Series
from telemetry.families import Family
from telemetry.metrics import METRICS
from telemetry.prices import Prices
from telemetry.series import OTHER, Histogram
from telemetry.spans import AGENT, HUMAN, TOOL, SpanRow
from telemetry.steps import TurnFacts, opening_of
from telemetry.turns import STARTUP, Deadlines, SharedFacts, Turn, TurnBook

logger = logging.getLogger("agent_runtime.telemetry")

FOLD_VERSION = 1

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

# Gauges of the present state: worked out when somebody looks, not kept.
_TURNS_OPEN = "agent_runtime_turns_open"
_PENDING = "agent_runtime_hitl_pending"
_OLDEST_PENDING = "agent_runtime_hitl_oldest_pending_timestamp_seconds"
_DERIVED = frozenset({_TURNS_OPEN, _OLDEST_PENDING})


class MetricsFold:
    """A projection: events in, families out. ``families`` may be called from any thread.

    Args:
        store: asked for the events of turns that are loaded again or come late.
        deadlines: when what needs several events is settled.
        label_budget: distinct values a label may take.
        prices: of model calls.
        shared: facts of turns to share with the span fold.
    """

    name = "metrics"

    def __init__(
        self,
        store: EventStore,
        deadlines: Deadlines | None = None,
        label_budget: int = 100,
        prices: Prices | None = None,
        shared: SharedFacts | None = None,
    ) -> None:
        deadlines = deadlines or Deadlines()
        self.version = _version(deadlines, label_budget)
        self.position = 0
        self._lock = threading.Lock()
        self._grace_ns = deadlines.grace
        self._prices = prices or Prices()
        self._series = Series(label_budget)
        self._tables = self._series.tables
        self._plans: dict[str, Plan] = {}
        self._turns = TurnBook(deadlines, self._turn_looked_at, store, shared)
        self._approvals = Approvals(deadlines.grace, self._waited, self._requested)
        for name, label_sets in PRE_CREATED.items():
            for labels in label_sets:
                self._tables[name].cell(labels)

    # -- folding -------------------------------------------------------------------------------------------------------

    def apply(self, events: Sequence[BaseEvent]) -> None:
        """See ``Projection.apply``."""
        with self._lock:
            plans, add_to_turn, play = self._plans, self._turns.add, self._play
            turn_alarms, approval_alarms = self._turns.alarms, self._approvals.alarms
            for event in events:
                recorded_ns = event.recorded_ns
                if event.event_type is STARTUP:
                    self._turns.resume(event)
                if turn_alarms and turn_alarms[0][0] < recorded_ns:
                    self._turns.due(recorded_ns)
                if approval_alarms and approval_alarms[0][0] < recorded_ns:
                    self._approvals.due(recorded_ns)
                try:
                    plan = plans.get(event.event_type)
                    if plan is None:
                        plan = self._plan(event.event_type)
                    plan.total.value += 1
                    correlation_id = event.correlation_id
                    turn = None if correlation_id is None else add_to_turn(event, correlation_id)
                    if plan.row is not None:
                        self._end(event, plan, plan.row, turn)
                    elif plan.rules:
                        play(event, plan, event.data)
                    if plan.human:
                        self._approvals.take(event)
                except Exception:
                    logger.exception("metrics can't take event %s", event.event_id)
            if events:
                self.position = events[-1].position

    def settle(self, now_ns: int) -> None:
        """See ``Projection.settle``."""
        with self._lock:
            self._turns.due(now_ns)
            self._approvals.due(now_ns)

    def _plan(self, kind: str) -> Plan:
        total = self._tables["agent_runtime_events_total"].cell((str(kind),))
        plan = self._plans[kind] = Plan(kind, total)
        return plan

    def _play(self, event: BaseEvent, plan: Plan, data: dict[str, Any], opening_id: str = "") -> None:
        """Change every series that the rules of this event's type name.

        Args:
            data: the event's, or more than that.
            opening_id: the event that opened the span which an exemplar is to name; empty for the turn's own.
        """
        get = data.get
        keys = plan.keys
        key = get(keys[0]) if len(keys) == 1 else tuple([get(name) for name in keys])
        binding = plan.bindings.get(key)
        if binding is None:
            binding = self._series.bind(plan, key)
        counts, fields, durations, costs = binding
        for counter, amount in counts:
            counter.value += amount
        for counter, field in fields:
            counter.value += get(field) or 0
        for histogram, field in durations:
            milliseconds = get(field)
            if milliseconds is not None:
                self._observe(histogram, round(milliseconds * 1_000_000), event, opening_id)
        for counter in costs:
            counter.value += self._cost(event, data)

    def _observe(self, histogram: Histogram, value: int, event: BaseEvent, opening_id: str) -> None:
        bucket = bisect_left(histogram.bounds, value)
        histogram.counts[bucket] += 1
        histogram.sum += value
        histogram.shown = None
        if event.correlation_id is not None:
            operation = ENDS[event.event_type].operation
            histogram.exemplars[bucket] = (value, event.correlation_id, operation, opening_id, event.time_us)

    def _cost(self, event: BaseEvent, data: dict[str, Any]) -> int:
        return self._prices.cost_nanodollars(
            data["model"],
            data.get("provider"),
            data.get("prompt_tokens") or 0,
            data.get("completion_tokens") or 0,
            data.get("cached_tokens") or 0,
            event.time_us,
        )

    # -- ends, and what they lack --------------------------------------------------------------------------------------

    def _end(self, event: BaseEvent, plan: Plan, row: SpanRow, turn: Turn | None) -> None:
        """Count the end of a step, or make a note of it until its turn is looked at."""
        opening = None if turn is None else opening_of(row, event, turn.events)
        if row is AGENT:
            self._play(event, plan, event.data, "" if opening is None else opening.event_id)
            if event.data["success"]:
                return
            if turn is None:
                self._agent_failed(event, "error", None)
        elif _says_everything(event, row):
            self._play(event, plan, event.data, "" if opening is None else opening.event_id)
            return
        elif turn is None or opening is not None:
            self._complete(event, plan, opening)
            return
        if turn is not None:
            turn.marked[event.event_id] = None

    def _count_marked(self, turn: Turn, facts: TurnFacts, until_ns: int) -> None:
        """Count the ends that were noted and recorded up to ``until_ns``."""
        for event_id in list(turn.marked):
            event = turn.events[event_id]
            if event.recorded_ns > until_ns:
                continue
            del turn.marked[event_id]
            row = ENDS[event.event_type]
            step = facts.step_of.get(event_id)
            opening = opening_of(row, event, turn.events) or (step.opened if step is not None else None)
            if row is AGENT:
                self._agent_failed(event, facts.agent_error(event), opening)
            else:
                self._complete(event, self._plans.get(event.event_type) or self._plan(event.event_type), opening)

    def _complete(self, end: BaseEvent, plan: Plan, opening: BaseEvent | None) -> None:
        """Count an end with provider and duration from its beginning, as far as that is known."""
        data = dict(end.data)
        if data.get("provider") is None and opening is not None:
            data["provider"] = opening.data.get("provider")
        if data.get("duration_ms") is None:
            micros = 0 if opening is None else end.time_us - opening.time_us
            data["duration_ms"] = max(0, micros) / 1000
        self._play(end, plan, data, "" if opening is None else opening.event_id)

    def _agent_failed(self, event: BaseEvent, error_type: str, opening: BaseEvent | None) -> None:
        histogram = self._series.cell("gen_ai_invoke_agent_duration_seconds", event.data["agent"], error_type)
        value = round(event.data["duration_ms"] * 1_000_000)
        self._observe(histogram, value, event, "" if opening is None else opening.event_id)

    # -- approvals and turns -------------------------------------------------------------------------------------------

    def _requested(self, tool: str) -> None:
        self._series.cell("agent_runtime_hitl_requests_total", tool).value += 1
        # From now on there is a series of what is pending, whoever looks when.
        self._series.cell(_PENDING, tool)
        # Which series exist is a matter of events as well, not of who happened to look while one was pending.
        self._series.cell(_PENDING, tool)

    def _waited(self, wait: Wait) -> None:
        value = max(0, wait.decided_us - wait.requested_us) * 1000
        if wait.correlation_id is None and wait.decided_us < wait.requested_us:
            self._series.count("agent_runtime_negative_durations_total")
        observed = None
        if wait.correlation_id is not None:
            observed = (value, wait.correlation_id, HUMAN.operation, wait.opening_id, wait.decided_us)
        histogram: Histogram = self._series.cell("agent_runtime_hitl_wait_seconds", wait.tool, wait.decision)
        histogram.observe(value, observed)

    def _turn_looked_at(self, turn: Turn, facts: TurnFacts, at_ns: int, settled: bool, incomplete: bool) -> None:
        if turn.marked:
            self._count_marked(turn, facts, at_ns if settled else at_ns - self._grace_ns)
        if not settled:
            return
        if turn.settled_at:
            late = sum(event.position > turn.settled_at for event in turn.events.values())
            self._series.count("agent_runtime_late_events_total", amount=late)
            return
        error_type = "incomplete" if incomplete else facts.error_type()
        value = (facts.end_us - facts.start_us) * 1000
        duration: Histogram = self._series.cell("gen_ai_invoke_workflow_duration_seconds", error_type)
        duration.observe(value, (value, turn.correlation_id, "", "", facts.end_us))
        for phase, micros in facts.phases().items():
            self._series.count("agent_runtime_turn_seconds_total", phase, amount=micros * 1000)
        negative = sum(step.negative for step in facts.steps)
        if negative:
            self._series.count("agent_runtime_negative_durations_total", amount=negative)

    # -- looking -------------------------------------------------------------------------------------------------------

    def families(self) -> list[Family]:
        """The present state, in the order of METRICS, as plain data that the fold will not change."""
        with self._lock:
            self._tables[_TURNS_OPEN].cell(()).value = len(self._turns)
            self._show_pending()
            return [table.family() for table in self._tables.values()]

    def _show_pending(self) -> None:
        pending, oldest = self._tables[_PENDING], self._tables[_OLDEST_PENDING]
        for cell in pending.series.values():
            cell.value = 0
        for tool, count in self._approvals.pending_by_tool().items():
            pending.cell((self._series.budget.admit("gen_ai_tool_name", tool),)).value += count
        oldest.series.clear()
        since_us = self._approvals.oldest_pending_us()
        if since_us is not None:
            oldest.cell(()).value = since_us * 1000

    # -- checkpoint ----------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """See ``Projection.dump``."""
        with self._lock:
            self._show_pending()
            kept = (table for name, table in self._tables.items() if name not in _DERIVED)
            state = {
                "position": self.position,
                "series": {table.metric.name: table.dump() for table in kept},
                "budget": {label: list(values) for label, values in self._series.budget.values.items()},
                "turns": self._turns.dump(),
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
                    self._series.budget.admit(label, value)
            self._turns.load(kept["turns"], self.position)
            self._approvals.load(kept["approvals"])
            self._plans.clear()


def _says_everything(end: BaseEvent, row: SpanRow) -> bool:
    get = end.data.get
    return get("duration_ms") is not None and (row is TOOL or get("provider") is not None)


def _version(deadlines: Deadlines, label_budget: int) -> str:
    definition = repr((FOLD_VERSION, METRICS, deadlines, label_budget, OTHER))
    return blake2b(definition.encode(), digest_size=8).hexdigest()
