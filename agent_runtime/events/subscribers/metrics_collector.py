"""The classic JSON metrics, counted from events."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_types import EventType
from agent_runtime.events.subscribers.folding import FoldingSubscriber

OTHER = "_other"
DECISIONS = ("APPROVE", "EDIT", "REJECT")
APPROVAL_TYPES = (EventType.TOOL_APPROVAL_REQUIRED, EventType.HITL_APPROVAL_REQUESTED)
NS_PER_MS = 1_000_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Runs:
    """The finished runs of one agent. Time is a whole number of nanoseconds, so that its sum knows no order."""

    count: int = 0
    duration_ns: int = 0
    success_count: int = 0
    failure_count: int = 0


@dataclass(slots=True)
class _Calls:
    """The calls of one tool."""

    requested: int = 0
    completed: int = 0
    failed: int = 0
    requires_approval: int = 0


class MetricsCollector(FoldingSubscriber):
    """Counts switches, agent runs, tool calls, decisions and errors, in whatever order events arrive.

    Args:
        budget: how many keys each of the five tables may hold; what comes after is counted under ``_other``.
        remembered_calls: how many calls that needed approval are remembered, so that one that is announced by both
            ``tool_approval_required`` and ``hitl_approval_requested`` counts once.
    """

    name = "metrics_collector"
    priority = 5

    def __init__(self, budget: int = 1_000, remembered_calls: int = 10_000) -> None:
        self._budget = budget
        self._remembered_calls = remembered_calls
        self._folds = {
            EventType.AGENT_SWITCHED: self._on_switched,
            EventType.AGENT_PROCESSING_COMPLETED: self._on_run_completed,
            EventType.AGENT_ERROR_OCCURRED: self._on_agent_error,
            EventType.TOOL_EXECUTION_REQUESTED: self._on_tool_requested,
            EventType.TOOL_EXECUTION_COMPLETED: self._on_tool_completed,
            EventType.TOOL_EXECUTION_FAILED: self._on_tool_failed,
            **dict.fromkeys(APPROVAL_TYPES, self._on_approval_required),
            EventType.HITL_DECISION_MADE: self._on_decision,
        }
        self.reset_metrics()

    def reset_metrics(self) -> None:
        """Count from zero again."""
        self._switches: dict[tuple[str, str], int] = {}
        self._runs: dict[str, _Runs] = {}
        self._tools: dict[str, _Calls] = {}
        self._decisions: dict[tuple[str, str], int] = {}
        self._errors: dict[tuple[str, str], int] = {}
        self._approvals: dict[tuple[str, str, str], list[int]] = {}

    def get_metrics(self) -> dict[str, dict[str, Any]]:
        """All counts.

        Returns:
            ``agent_switches`` {"<from>_to_<to>": n}, ``agent_processing`` {agent: {count, total_duration_ms,
            success_count, failure_count}}, ``tool_executions`` {tool: {requested, completed, failed,
            requires_approval}}, ``hitl_decisions`` {tool: {APPROVE, EDIT, REJECT}}, ``errors`` {agent: {type: n}}.
        """
        switches: dict[str, int] = {}
        for (from_agent, to_agent), n in list(self._switches.items()):
            key = f"{from_agent}_to_{to_agent}"
            switches[key] = switches.get(key, 0) + n
        decisions: dict[str, dict[str, int]] = {}
        for (tool, decision), n in list(self._decisions.items()):
            decisions.setdefault(tool, dict.fromkeys(DECISIONS, 0))[decision] = n
        errors: dict[str, dict[str, int]] = {}
        for (agent, error_type), n in list(self._errors.items()):
            errors.setdefault(agent, {})[error_type] = n
        return {
            "agent_switches": switches,
            "agent_processing": {
                agent: {
                    "count": runs.count,
                    "total_duration_ms": runs.duration_ns / NS_PER_MS,
                    "success_count": runs.success_count,
                    "failure_count": runs.failure_count,
                }
                for agent, runs in list(self._runs.items())
            },
            "tool_executions": {
                tool: {
                    "requested": calls.requested,
                    "completed": calls.completed,
                    "failed": calls.failed,
                    "requires_approval": calls.requires_approval,
                }
                for tool, calls in list(self._tools.items())
            },
            "hitl_decisions": decisions,
            "errors": errors,
        }

    def get_agent_avg_duration(self, agent: str) -> float:
        """The mean duration of an agent's finished runs, in milliseconds; 0 where there is none."""
        runs = self._runs.get(agent)
        return runs.duration_ns / runs.count / NS_PER_MS if runs else 0.0

    def get_tool_success_rate(self, tool_name: str) -> float:
        """Completed of all ended calls of a tool, 0 to 1; 0 where none has ended."""
        calls = self._tools.get(tool_name)
        ended = calls.completed + calls.failed if calls else 0
        return calls.completed / ended if calls and ended else 0.0

    def get_agent_switch_count(self, from_agent: str, to_agent: str) -> int:
        """How often ``from_agent`` handed over to ``to_agent``."""
        return self._switches.get((from_agent, to_agent), 0)

    def dump(self) -> bytes:
        """See ``Projection.dump``."""
        return orjson.dumps(
            {
                "switches": list(self._switches.items()),
                "runs": self._runs,
                "tools": self._tools,
                "decisions": list(self._decisions.items()),
                "errors": list(self._errors.items()),
                "approvals": list(self._approvals.items()),
            }
        )

    def load(self, state: bytes) -> None:
        """See ``Projection.load``."""
        kept = orjson.loads(state)
        self._switches = {(from_agent, to_agent): n for (from_agent, to_agent), n in kept["switches"]}
        self._runs = {agent: _Runs(**runs) for agent, runs in kept["runs"].items()}
        self._tools = {tool: _Calls(**calls) for tool, calls in kept["tools"].items()}
        self._decisions = {(tool, decision): n for (tool, decision), n in kept["decisions"]}
        self._errors = {(agent, error_type): n for (agent, error_type), n in kept["errors"]}
        self._approvals = {(where, tool, call_id): seen for (where, tool, call_id), seen in kept["approvals"]}

    def _within(self, table: dict[K, V], key: K, other: K) -> K:
        """``key``, or ``other`` where the table's budget is used up."""
        return key if key in table or len(table) < self._budget else other

    def _count(self, table: dict[tuple[str, str], int], key: tuple[str, str]) -> None:
        key = self._within(table, key, (OTHER, OTHER))
        table[key] = table.get(key, 0) + 1

    def _tool(self, event: BaseEvent) -> _Calls:
        return self._tools.setdefault(self._within(self._tools, event.data["tool_name"], OTHER), _Calls())

    def _on_switched(self, event: BaseEvent) -> None:
        self._count(self._switches, (event.data["from_agent"], event.data["to_agent"]))

    def _on_run_completed(self, event: BaseEvent) -> None:
        data = event.data
        runs = self._runs.setdefault(self._within(self._runs, data["agent"], OTHER), _Runs())
        runs.count += 1
        runs.duration_ns += round(data["duration_ms"] * NS_PER_MS)
        if data["success"]:
            runs.success_count += 1
        else:
            runs.failure_count += 1

    def _on_agent_error(self, event: BaseEvent) -> None:
        self._count(self._errors, (event.data["agent"], event.data["error_type"]))

    def _on_tool_requested(self, event: BaseEvent) -> None:
        self._tool(event).requested += 1

    def _on_tool_completed(self, event: BaseEvent) -> None:
        self._tool(event).completed += 1

    def _on_tool_failed(self, event: BaseEvent) -> None:
        self._tool(event).failed += 1

    def _on_approval_required(self, event: BaseEvent) -> None:
        # Models reuse call ids, so a call may need approval again: as often as the one or the other type announces it.
        call = (event.session_id or event.correlation_id or "", event.data["tool_name"], event.data["call_id"])
        announced = self._approvals.setdefault(call, [0] * len(APPROVAL_TYPES))
        before = max(announced)
        announced[APPROVAL_TYPES.index(EventType(event.event_type))] += 1
        self._tool(event).requires_approval += max(announced) - before
        if len(self._approvals) > self._remembered_calls:
            del self._approvals[next(iter(self._approvals))]

    def _on_decision(self, event: BaseEvent) -> None:
        decision = event.data["decision"].upper()
        self._count(self._decisions, (event.data["tool_name"], decision if decision in DECISIONS else OTHER))
