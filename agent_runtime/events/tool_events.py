"""Events about tools, and about people who decide on tool calls."""

from __future__ import annotations

from typing import Any, Unpack

from agent_runtime.events.base_event import BaseEvent, Common
from agent_runtime.events.event_types import EventType
from agent_runtime.events.fields import COUNT, DURATION, NAME, NUMBER, OBJECT, TEXT, Field


class ToolExecutionRequestedEvent(BaseEvent):
    """A model asked for a tool call."""

    __slots__ = ()
    TYPE = EventType.TOOL_EXECUTION_REQUESTED
    FIELDS = (
        Field("tool_name", NAME),
        Field("arguments", OBJECT),
        Field("call_id", NAME),
        Field("agent", NAME, required=False),
    )

    def __init__(
        self,
        *,
        tool_name: str,
        arguments: dict[str, Any],
        call_id: str,
        agent: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            data={"tool_name": tool_name, "arguments": arguments, "call_id": call_id, "agent": agent}, **common
        )


class ToolExecutionStartedEvent(BaseEvent):
    """A tool began to run."""

    __slots__ = ()
    TYPE = EventType.TOOL_EXECUTION_STARTED
    FIELDS = (Field("tool_name", NAME), Field("call_id", NAME))

    def __init__(self, *, tool_name: str, call_id: str, **common: Unpack[Common]) -> None:
        super().__init__(data={"tool_name": tool_name, "call_id": call_id}, **common)


class ToolExecutionCompletedEvent(BaseEvent):
    """A tool ran to its end. ``duration_ms`` is wall time in milliseconds, ``result_length`` characters."""

    __slots__ = ()
    TYPE = EventType.TOOL_EXECUTION_COMPLETED
    FIELDS = (
        Field("tool_name", NAME),
        Field("call_id", NAME),
        Field("duration_ms", DURATION),
        Field("result_length", COUNT, required=False),
    )

    def __init__(
        self, *, tool_name: str, call_id: str, duration_ms: float, result_length: int = 0, **common: Unpack[Common]
    ) -> None:
        super().__init__(
            data={
                "tool_name": tool_name,
                "call_id": call_id,
                "duration_ms": duration_ms,
                "result_length": result_length,
            },
            **common,
        )


class ToolExecutionFailedEvent(BaseEvent):
    """A tool failed. ``duration_ms`` may be unknown; it is then taken from the start event."""

    __slots__ = ()
    TYPE = EventType.TOOL_EXECUTION_FAILED
    FIELDS = (
        Field("tool_name", NAME),
        Field("call_id", NAME),
        Field("error_message", TEXT),
        Field("error_type", NAME),
        Field("duration_ms", DURATION, required=False),
    )

    def __init__(
        self,
        *,
        tool_name: str,
        call_id: str,
        error_message: str,
        error_type: str,
        duration_ms: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            data={
                "tool_name": tool_name,
                "call_id": call_id,
                "error_message": error_message,
                "error_type": error_type,
                "duration_ms": duration_ms,
            },
            **common,
        )


class ToolApprovalRequiredEvent(BaseEvent):
    """The policy wants a person to approve a tool call."""

    __slots__ = ()
    TYPE = EventType.TOOL_APPROVAL_REQUIRED
    FIELDS = (
        Field("tool_name", NAME),
        Field("arguments", OBJECT),
        Field("call_id", NAME),
        Field("reason", TEXT, required=False),
    )

    def __init__(
        self, *, tool_name: str, arguments: dict[str, Any], call_id: str, reason: str = "", **common: Unpack[Common]
    ) -> None:
        super().__init__(
            data={"tool_name": tool_name, "arguments": arguments, "call_id": call_id, "reason": reason}, **common
        )


class HITLApprovalRequestedEvent(BaseEvent):
    """A person was asked to approve a tool call, within ``timeout_seconds``."""

    __slots__ = ()
    TYPE = EventType.HITL_APPROVAL_REQUESTED
    FIELDS = (
        Field("call_id", NAME),
        Field("tool_name", NAME),
        Field("arguments", OBJECT),
        Field("reason", TEXT, required=False),
        Field("timeout_seconds", NUMBER, required=False),
    )

    def __init__(
        self,
        *,
        call_id: str,
        tool_name: str,
        arguments: dict[str, Any],
        reason: str = "",
        timeout_seconds: float = 300,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            data={
                "call_id": call_id,
                "tool_name": tool_name,
                "arguments": arguments,
                "reason": reason,
                "timeout_seconds": timeout_seconds,
            },
            **common,
        )


class HITLDecisionMadeEvent(BaseEvent):
    """A person decided: APPROVE, EDIT or REJECT by convention, in any case; kept as given."""

    __slots__ = ()
    TYPE = EventType.HITL_DECISION_MADE
    FIELDS = (
        Field("call_id", NAME),
        Field("decision", NAME),
        Field("tool_name", NAME),
        Field("original_args", OBJECT, required=False),
        Field("modified_args", OBJECT, required=False),
    )

    def __init__(
        self,
        *,
        call_id: str,
        decision: str,
        tool_name: str,
        original_args: dict[str, Any] | None = None,
        modified_args: dict[str, Any] | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            data={
                "call_id": call_id,
                "decision": decision,
                "tool_name": tool_name,
                "original_args": original_args,
                "modified_args": modified_args,
            },
            **common,
        )


class HITLTimeoutOccurredEvent(BaseEvent):
    """Nobody decided within ``timeout_seconds``."""

    __slots__ = ()
    TYPE = EventType.HITL_TIMEOUT_OCCURRED
    FIELDS = (Field("call_id", NAME), Field("tool_name", NAME), Field("timeout_seconds", NUMBER))

    def __init__(self, *, call_id: str, tool_name: str, timeout_seconds: float, **common: Unpack[Common]) -> None:
        super().__init__(
            data={"call_id": call_id, "tool_name": tool_name, "timeout_seconds": timeout_seconds}, **common
        )


ToolExecutedEvent = ToolExecutionCompletedEvent
