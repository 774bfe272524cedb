"""SPANS: what opens a span and what closes it, one row each, and the attributes that its events give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from agent_runtime.events.event_types import EventType as T

INTERNAL, CLIENT = 1, 3
Phase = Literal["model", "tool", "human", ""]


class Attribute(NamedTuple):
    """Copies ``data[field]`` of an event to the attribute ``name``; ``as_list`` wraps it in a list of one."""

    field: str
    name: str
    as_list: bool = False


@dataclass(frozen=True, slots=True)
class SpanRow:
    """A kind of span inside a turn.

    Attributes:
        operation: first word of its name, and ``gen_ai.operation.name`` where ``gen_ai`` is true.
        subject: the key of the data that completes its name.
        opens, closes: event types at its two ends. announces: types that belong to it, but are not its beginning.
        key: the key of the data that both ends share. It joins them where the end does not name the opening event as
            its cause.
        phase: what a turn's time inside it counts as.
        kind: OTLP span kind.
        attributes: copied from any of its events, later events win.
    """

    operation: str
    subject: str
    opens: tuple[T, ...]
    closes: tuple[T, ...]
    key: tuple[str, ...]
    phase: Phase
    kind: int = INTERNAL
    announces: tuple[T, ...] = ()
    gen_ai: bool = True
    loose: bool = False
    attributes: tuple[Attribute, ...] = ()


AGENT = SpanRow(
    "invoke_agent",
    "agent",
    opens=(T.AGENT_PROCESSING_STARTED,),
    closes=(T.AGENT_PROCESSING_COMPLETED,),
    key=("agent",),
    phase="",
    attributes=(
        Attribute("agent", "gen_ai.agent.name"),
        Attribute("message_preview", "agent_runtime.message.preview"),
    ),
)
MODEL = SpanRow(
    "chat",
    "model",
    opens=(T.LLM_REQUEST_STARTED,),
    closes=(T.LLM_REQUEST_COMPLETED, T.LLM_REQUEST_FAILED),
    key=("request_id",),
    phase="model",
    kind=CLIENT,
    loose=True,
    attributes=(
        Attribute("model", "gen_ai.request.model"),
        Attribute("provider", "gen_ai.provider.name"),
        Attribute("agent", "gen_ai.agent.name"),
        Attribute("prompt_tokens", "gen_ai.usage.input_tokens"),
        Attribute("completion_tokens", "gen_ai.usage.output_tokens"),
        Attribute("cached_tokens", "gen_ai.usage.cache_read.input_tokens"),
        Attribute("finish_reason", "gen_ai.response.finish_reasons", as_list=True),
        Attribute("time_to_first_chunk_ms", "agent_runtime.time_to_first_chunk_ms"),
        Attribute("messages_count", "agent_runtime.request.messages"),
        Attribute("tools_count", "agent_runtime.request.tools"),
        Attribute("request_id", "agent_runtime.request.id"),
        Attribute("error_type", "error.type"),
    ),
)
TOOL = SpanRow(
    "execute_tool",
    "tool_name",
    opens=(T.TOOL_EXECUTION_STARTED,),
    closes=(T.TOOL_EXECUTION_COMPLETED, T.TOOL_EXECUTION_FAILED),
    announces=(T.TOOL_EXECUTION_REQUESTED,),
    key=("tool_name", "call_id"),
    phase="tool",
    attributes=(
        Attribute("tool_name", "gen_ai.tool.name"),
        Attribute("call_id", "gen_ai.tool.call.id"),
        Attribute("agent", "gen_ai.agent.name"),
        Attribute("result_length", "agent_runtime.tool.result_length"),
        Attribute("error_type", "error.type"),
    ),
)
HUMAN = SpanRow(
    "await_approval",
    "tool_name",
    opens=(T.TOOL_APPROVAL_REQUIRED, T.HITL_APPROVAL_REQUESTED),
    closes=(T.HITL_DECISION_MADE, T.HITL_TIMEOUT_OCCURRED),
    key=("tool_name", "call_id"),
    phase="human",
    gen_ai=False,
    attributes=(
        Attribute("tool_name", "agent_runtime.approval.tool"),
        Attribute("call_id", "agent_runtime.approval.call_id"),
        Attribute("reason", "agent_runtime.approval.reason"),
        Attribute("timeout_seconds", "agent_runtime.approval.timeout_seconds"),
    ),
)

SPANS: tuple[SpanRow, ...] = (AGENT, MODEL, TOOL, HUMAN)

# Events that become span events on the span around them, and the keys of their data that go along.
SPAN_EVENTS: dict[str, tuple[str, ...]] = {
    T.AGENT_SWITCHED: ("from_agent", "to_agent", "reason", "confidence"),
    T.MESSAGE_ADDED: ("role", "content_length", "agent_name"),
    T.AGENT_ERROR_OCCURRED: ("agent", "error_type", "error_message"),
    T.SESSION_UPDATED: ("update_type",),
}
MAX_SPAN_EVENTS = 128


def decision_of(event_type: str, decision: object) -> str:
    """How an approval ended, in lower case: approve, edit, reject, timeout, or what the publisher said instead."""
    return "timeout" if event_type == T.HITL_TIMEOUT_OCCURRED else str(decision).lower()
