"""METRICS: every metric that is a fold of the events, one row each.

Names that the OpenTelemetry GenAI conventions define are theirs, translated to Prometheus; the others begin with
`agent_runtime_`. A row that Prometheus would refuse, or that puts an id into a label, raises `ValueError` at import.
"""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from agent_runtime.events.event_types import EventType as T
from agent_runtime.events.parsing import CLASS_OF

MetricType = Literal["counter", "gauge", "histogram"]
Unit = Literal["seconds", "usd", ""]

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")
_RESERVED_SUFFIXES = ("_total", "_created", "_bucket", "_count", "_sum", "_info")
_RESERVED_LABELS = {"le", "quantile", "job", "instance"}
_MAX_BUCKETS = 14  # and +Inf: each bucket of each label set is a series in Prometheus


@dataclass(frozen=True, slots=True)
class Rule:
    """How one type of event changes a metric.

    Args:
        on: The type; None for every event.
        labels: For each label of the metric the key of the event's data that gives its value, or `=text` for a
            constant.
        value: `+1`, `-1`, or the key of the data to add: to a counter as it is, to a histogram as milliseconds.
            `cost` adds the price of the call.
        where: The rule applies only to events whose data is not false under this key; empty for all.
    """

    on: T | None
    labels: tuple[str, ...] = ()
    value: str = "+1"
    where: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it is called, what it counts, what it is split by.

    Args:
        name: The sample name of a counter (ends with `_total`), the family name of a gauge or a histogram.
        type: How Prometheus is to read it.
        help: One sentence for the `# HELP` line.
        labels: Label names, in the order in which the fold keeps their values. Never an id.
        unit: The base unit, also the end of the family name; empty for plain counts.
        buckets: Upper bounds of a histogram's buckets, ascending, in `unit`; `+Inf` is implied.
        source: Which events feed it, in a few words; for the documentation.
        rules: How single events feed it; what needs several events is settled by the fold itself.

    Raises:
        ValueError: If the row is not a valid Prometheus metric or has an id as a label.
    """

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    unit: Unit = ""
    buckets: tuple[float, ...] = ()
    source: str = ""
    rules: tuple[Rule, ...] = ()

    @property
    def family(self) -> str:
        """The family's name: a counter's without `_total`."""
        return self.name.removesuffix("_total") if self.type == "counter" else self.name

    def __post_init__(self) -> None:
        for fault in (
            self._name_fault(),
            self._text_fault(),
            self._label_fault(),
            self._bucket_fault(),
            self._rule_fault(),
        ):
            if fault:
                raise ValueError(f"metric {self.name!r}: {fault}")

    def _name_fault(self) -> str | None:
        if not _NAME.match(self.name):
            return "not a valid Prometheus name"
        if (self.type == "counter") != self.name.endswith("_total"):
            return "counters, and only counters, end with _total"
        if self.family.endswith(_RESERVED_SUFFIXES):
            return f"the family name {self.family!r} ends with a suffix that Prometheus gives a meaning"
        if self.unit and not self.family.endswith(f"_{self.unit}"):
            return f"the family name must end with its unit, _{self.unit}"
        return None

    def _text_fault(self) -> str | None:
        if not self.help.endswith(".") or "\n" in self.help:
            return "help must be one sentence on one line"
        return None if self.source else "source must say which events feed it"

    def _label_fault(self) -> str | None:
        for label in self.labels:
            if not _LABEL.match(label) or label in _RESERVED_LABELS:
                return f"{label!r} is not a label name that we may use"
            if label == "id" or label.endswith("_id"):
                return f"{label!r} is an id: ids go into exemplars and spans"
        return "a label is named twice" if len(set(self.labels)) < len(self.labels) else None

    def _bucket_fault(self) -> str | None:
        if self.type != "histogram":
            return "only a histogram has buckets" if self.buckets else None
        if not 1 <= len(self.buckets) <= _MAX_BUCKETS:
            return f"a histogram has 1 to {_MAX_BUCKETS} buckets, not {len(self.buckets)}"
        if not all(math.isfinite(bound) and bound > 0 for bound in self.buckets):
            return "bucket bounds must be finite and positive; +Inf is implied"
        return None if all(a < b for a, b in pairwise(self.buckets)) else "bucket bounds must ascend"

    def _rule_fault(self) -> str | None:
        for rule in self.rules:
            if len(rule.labels) != len(self.labels):
                return f"a rule gives {len(rule.labels)} label values, the metric has {len(self.labels)} labels"
            known = {field.name for field in CLASS_OF[rule.on].FIELDS} if rule.on else {"event_type"}
            named = {label for label in rule.labels if not label.startswith("=")}
            if rule.value not in ("+1", "-1", "cost"):
                named.add(rule.value)
            if rule.where:
                named.add(rule.where)
            if named - known:
                return f"{rule.on} has no {', '.join(sorted(named - known))}"
        return None


def table(*rows: Metric) -> tuple[Metric, ...]:
    """Returns the rows as a table.

    Raises:
        ValueError: If two rows have the same family name.
    """
    families = [row.family for row in rows]
    twice = sorted({family for family in families if families.count(family) > 1})
    if twice:
        raise ValueError(f"metrics defined twice: {', '.join(twice)}")
    return rows


# Bounds of the GenAI conventions; the wait for a person is ours.
CALL_BUCKETS = tuple(0.01 * 2**n for n in range(14))  # 0.01 … 81.92 s
AGENT_BUCKETS = tuple(0.1 * 2**n for n in range(13))  # 0.1 … 409.6 s
WORKFLOW_BUCKETS = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
HUMAN_BUCKETS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0)

_INFERENCE = ("gen_ai_request_model", "gen_ai_provider_name", "error_type")
_USAGE = ("gen_ai_request_model", "gen_ai_provider_name", "gen_ai_agent_name")

METRICS: tuple[Metric, ...] = table(
    Metric(
        "agent_runtime_events_total",
        "counter",
        "Events stored, by type.",
        ("event_type",),
        source="every event",
        rules=(Rule(None, ("event_type",)),),
    ),
    # Agents
    Metric(
        "agent_runtime_agent_switches_total",
        "counter",
        "Hand-overs from one agent to another.",
        ("from_agent", "to_agent"),
        source="agent_switched",
        rules=(Rule(T.AGENT_SWITCHED, ("from_agent", "to_agent")),),
    ),
    Metric(
        "gen_ai_invoke_agent_duration_seconds",
        "histogram",
        "Time an agent took to process a message.",
        ("gen_ai_agent_name", "error_type"),
        "seconds",
        AGENT_BUCKETS,
        source="agent_processing_completed",
        rules=(Rule(T.AGENT_PROCESSING_COMPLETED, ("agent", "="), "duration_ms", "success"),),
    ),
    Metric(
        "agent_runtime_agents_active",
        "gauge",
        "Agent invocations in progress.",
        ("gen_ai_agent_name",),
        source="agent_processing_started − agent_processing_completed",
        rules=(Rule(T.AGENT_PROCESSING_STARTED, ("agent",)), Rule(T.AGENT_PROCESSING_COMPLETED, ("agent",), "-1")),
    ),
    Metric(
        "agent_runtime_agent_errors_total",
        "counter",
        "Errors that agents reported.",
        ("gen_ai_agent_name", "error_type"),
        source="agent_error_occurred",
        rules=(Rule(T.AGENT_ERROR_OCCURRED, ("agent", "error_type")),),
    ),
    # Turns: one user message and all that follows from it
    Metric(
        "gen_ai_invoke_workflow_duration_seconds",
        "histogram",
        "Wall time of a turn, from its first event to its last.",
        ("error_type",),
        "seconds",
        WORKFLOW_BUCKETS,
        source="all events of a correlation id, once settled",
    ),
    Metric(
        "agent_runtime_turn_seconds_total",
        "counter",
        "Wall time of turns divided without overlap into model, tool, human and runtime.",
        ("phase",),
        "seconds",
        source="all events of a correlation id, once settled",
    ),
    Metric(
        "agent_runtime_turns_open",
        "gauge",
        "Turns that are not settled yet.",
        source="all events of a correlation id",
    ),
    # Tools
    Metric(
        "agent_runtime_tool_requests_total",
        "counter",
        "Tool calls that a model asked for.",
        ("gen_ai_tool_name", "gen_ai_agent_name"),
        source="tool_execution_requested",
        rules=(Rule(T.TOOL_EXECUTION_REQUESTED, ("tool_name", "agent")),),
    ),
    Metric(
        "gen_ai_execute_tool_duration_seconds",
        "histogram",
        "Time a tool took, without the wait for an approval.",
        ("gen_ai_tool_name", "error_type"),
        "seconds",
        CALL_BUCKETS,
        source="tool_execution_completed, tool_execution_failed",
        rules=(
            Rule(T.TOOL_EXECUTION_COMPLETED, ("tool_name", "="), "duration_ms"),
            Rule(T.TOOL_EXECUTION_FAILED, ("tool_name", "error_type"), "duration_ms"),
        ),
    ),
    # Approvals by people
    Metric(
        "agent_runtime_hitl_requests_total",
        "counter",
        "Approvals asked of people, each call once.",
        ("gen_ai_tool_name",),
        source="tool_approval_required, hitl_approval_requested",
    ),
    Metric(
        "agent_runtime_hitl_decisions_total",
        "counter",
        "Approvals decided: approve, edit, reject or timeout.",
        ("gen_ai_tool_name", "decision"),
        source="hitl_decision_made, hitl_timeout_occurred",
        rules=(
            Rule(T.HITL_DECISION_MADE, ("tool_name", "decision")),
            Rule(T.HITL_TIMEOUT_OCCURRED, ("tool_name", "=timeout")),
        ),
    ),
    Metric(
        "agent_runtime_hitl_wait_seconds",
        "histogram",
        "Time from the request of an approval to its decision.",
        ("gen_ai_tool_name", "decision"),
        "seconds",
        HUMAN_BUCKETS,
        source="approval request → hitl_decision_made, hitl_timeout_occurred",
    ),
    Metric(
        "agent_runtime_hitl_pending",
        "gauge",
        "Approvals that wait for a decision.",
        ("gen_ai_tool_name",),
        source="approval requests − decisions",
    ),
    Metric(
        "agent_runtime_hitl_oldest_pending_timestamp_seconds",
        "gauge",
        "When the oldest approval that still waits was requested, in seconds since the epoch.",
        (),
        "seconds",
        source="approval requests − decisions",
    ),
    # Model calls
    Metric(
        "gen_ai_client_inference_duration_seconds",
        "histogram",
        "Time a model call took.",
        _INFERENCE,
        "seconds",
        CALL_BUCKETS,
        source="llm_request_completed, llm_request_failed",
        rules=(
            Rule(T.LLM_REQUEST_COMPLETED, ("model", "provider", "="), "duration_ms"),
            Rule(T.LLM_REQUEST_FAILED, ("model", "provider", "error_type"), "duration_ms"),
        ),
    ),
    Metric(
        "gen_ai_client_inference_time_to_first_chunk_seconds",
        "histogram",
        "Time from a model call's start to the first chunk of its answer.",
        _INFERENCE,
        "seconds",
        CALL_BUCKETS,
        source="llm_request_completed",
        rules=(Rule(T.LLM_REQUEST_COMPLETED, ("model", "provider", "="), "time_to_first_chunk_ms"),),
    ),
    Metric(
        "gen_ai_client_inference_usage_input_tokens_total",
        "counter",
        "Tokens sent to models, cached ones included.",
        _USAGE,
        source="llm_request_completed",
        rules=(Rule(T.LLM_REQUEST_COMPLETED, ("model", "provider", "agent"), "prompt_tokens"),),
    ),
    Metric(
        "gen_ai_client_inference_usage_output_tokens_total",
        "counter",
        "Tokens that models generated.",
        _USAGE,
        source="llm_request_completed",
        rules=(Rule(T.LLM_REQUEST_COMPLETED, ("model", "provider", "agent"), "completion_tokens"),),
    ),
    Metric(
        "gen_ai_client_inference_usage_cache_read_input_tokens_total",
        "counter",
        "Input tokens that were served from a provider's cache.",
        _USAGE,
        source="llm_request_completed",
        rules=(Rule(T.LLM_REQUEST_COMPLETED, ("model", "provider", "agent"), "cached_tokens"),),
    ),
    Metric(
        "agent_runtime_llm_cost_usd_total",
        "counter",
        "List price of model calls in US dollars; a model without a known price adds nothing.",
        _USAGE,
        "usd",
        source="llm_request_completed, price table",
        rules=(Rule(T.LLM_REQUEST_COMPLETED, ("model", "provider", "agent"), "cost"),),
    ),
    # Sessions
    Metric(
        "agent_runtime_sessions_total",
        "counter",
        "Sessions created.",
        source="session_created",
        rules=(Rule(T.SESSION_CREATED),),
    ),
    Metric(
        "agent_runtime_sessions_active",
        "gauge",
        "Sessions created and not deleted.",
        source="session_created − session_deleted",
        rules=(Rule(T.SESSION_CREATED), Rule(T.SESSION_DELETED, (), "-1")),
    ),
    Metric(
        "agent_runtime_messages_total",
        "counter",
        "Messages added to sessions, by role.",
        ("role",),
        source="message_added",
        rules=(Rule(T.MESSAGE_ADDED, ("role",)),),
    ),
    # The fold's own health
    Metric(
        "agent_runtime_late_events_total",
        "counter",
        "Events that arrived after their turn was settled.",
        source="any event of a settled correlation id",
    ),
    Metric(
        "agent_runtime_label_overflow_total",
        "counter",
        "Label values beyond a label's budget, counted as _other.",
        ("label",),
        source="every labelled event",
    ),
    Metric(
        "agent_runtime_negative_durations_total",
        "counter",
        "Durations below zero that were set to zero.",
        source="every event with or between times",
    ),
)
