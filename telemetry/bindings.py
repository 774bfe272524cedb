"""How events of one type are counted: the rules of the METRICS table, bound to series.

A binding is what an event of this type with these label values touches, found once and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from telemetry.approvals import Approvals
from telemetry.metrics import METRICS
from telemetry.series import Counter, Histogram, LabelBudget, SeriesTable
from telemetry.spans import AGENT, MODEL, TOOL, SpanRow

MAX_BINDINGS = 2_000

ENDS: dict[str, SpanRow] = {kind: row for row in (AGENT, MODEL, TOOL) for kind in row.closes}

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


class Binding(NamedTuple):
    """Series to count in, to add a field of the data to, to observe a field in, and to add the cost to."""

    counts: tuple[tuple[Counter, int], ...]
    fields: tuple[tuple[Counter, str], ...]
    durations: tuple[tuple[Histogram, str], ...]
    costs: tuple[Counter, ...]


class Plan:
    """How events of one type are counted.

    Attributes:
        total: the series that counts the type. rules: what its events change.
        keys: the keys of their data that give label values.
        bindings: found so far, by the values of ``keys``: by the value itself if it is one, else by a tuple.
        row: the kind of span that they end. human: they are about an approval.
    """

    __slots__ = ("bindings", "human", "keys", "row", "rules", "total")

    def __init__(self, kind: str, total: Counter) -> None:
        self.rules = [(metric, rule) for metric in METRICS for rule in metric.rules if rule.on == kind]
        named = [label for _, rule in self.rules for label in (*rule.labels, rule.where) if label and label[0] != "="]
        self.total = total
        self.keys = tuple(dict.fromkeys(named))
        self.bindings: dict[Any, Binding] = {}
        self.row = ENDS.get(kind)
        self.human = kind in Approvals.types


class Series:
    """All series of the METRICS table, and the budget of their labels."""

    def __init__(self, label_budget: int) -> None:
        self.budget = LabelBudget(label_budget, KNOWN_VALUES)
        self.tables = {metric.name: SeriesTable(metric) for metric in METRICS}

    def cell(self, name: str, *values: str) -> Any:
        """A series by its label values, each within its budget; overflow is counted."""
        table = self.tables[name]
        labels = tuple(map(self.budget.admit, table.metric.labels, values))
        for label, value, admitted in zip(table.metric.labels, values, labels, strict=True):
            if admitted != value:
                self.count("agent_runtime_label_overflow_total", label)
        return table.cell(labels)

    def count(self, name: str, *labels: str, amount: int = 1) -> None:
        """Add to a counter whose labels need no budget."""
        self.tables[name].cell(labels).value += amount

    def bind(self, plan: Plan, key: Any) -> Binding:
        """Find the series for the values of the plan's keys, each label within its budget; the binding is kept."""
        if len(plan.bindings) >= MAX_BINDINGS:
            plan.bindings.clear()
        values = dict(zip(plan.keys, (key,) if len(plan.keys) == 1 else key, strict=True))
        counts: list[tuple[Counter, int]] = []
        fields: list[tuple[Counter, str]] = []
        durations: list[tuple[Histogram, str]] = []
        costs: list[Counter] = []
        overflowed: set[str] = set()
        for metric, rule in plan.rules:
            if rule.where and values[rule.where] is False:
                continue
            wanted = [_label_value(*pair, values) for pair in zip(metric.labels, rule.labels, strict=True)]
            labels = tuple(map(self.budget.admit, metric.labels, wanted))
            pairs = zip(metric.labels, wanted, labels, strict=True)
            overflowed.update(label for label, value, admitted in pairs if value != admitted)
            cell = self.tables[metric.name].cell(labels)
            if rule.value in ("+1", "-1"):
                counts.append((cell, int(rule.value)))
            elif rule.value == "cost":
                costs.append(cell)
            elif metric.type == "histogram":
                durations.append((cell, rule.value))
            else:
                fields.append((cell, rule.value))
        overflow = self.tables["agent_runtime_label_overflow_total"]
        counts += [(overflow.cell((label,)), 1) for label in sorted(overflowed)]
        binding = plan.bindings[key] = Binding(tuple(counts), tuple(fields), tuple(durations), tuple(costs))
        return binding


_NORMAL: dict[str, Callable[[str], str]] = {"decision": str.lower}


def _label_value(label: str, source: str, values: dict[str, Any]) -> str:
    """What a rule says for one label: a constant, or a value of the data in the label's normal form."""
    if source[0] == "=":
        return source[1:]
    value = values[source]
    if value is None:
        return "unknown"
    normal = _NORMAL.get(label)
    return normal(str(value)) if normal is not None else str(value)
