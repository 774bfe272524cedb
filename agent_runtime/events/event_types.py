"""The catalogue of event types and categories.

Underscore spelling is canonical; the dotted spelling of older publishers (``agent.switched``,
``session.message.added``) is accepted
wherever a type is looked up: ``EventType("agent.switched") is EventType.AGENT_SWITCHED``.
"""

from __future__ import annotations

from enum import StrEnum


class EventCategory(StrEnum):
    """What part of the system an event speaks about."""

    AGENT = "agent"
    SESSION = "session"
    TOOL = "tool"
    HITL = "hitl"
    LLM = "llm"
    SYSTEM = "system"
    METRICS = "metrics"
    DOMAIN = "domain"

    # Members are dictionary keys on the hot path; Enum's own __hash__ is a Python function.
    __hash__ = str.__hash__


class EventType(StrEnum):
    """Every infrastructure event there is."""

    AGENT_SWITCHED = "agent_switched"
    AGENT_PROCESSING_STARTED = "agent_processing_started"
    AGENT_PROCESSING_COMPLETED = "agent_processing_completed"
    AGENT_ERROR_OCCURRED = "agent_error_occurred"
    AGENT_REGISTERED = "agent_registered"
    SESSION_CREATED = "session_created"
    SESSION_UPDATED = "session_updated"
    SESSION_DELETED = "session_deleted"
    MESSAGE_ADDED = "message_added"
    TOOL_EXECUTION_REQUESTED = "tool_execution_requested"
    TOOL_EXECUTION_STARTED = "tool_execution_started"
    TOOL_EXECUTION_COMPLETED = "tool_execution_completed"
    TOOL_EXECUTION_FAILED = "tool_execution_failed"
    TOOL_APPROVAL_REQUIRED = "tool_approval_required"
    HITL_APPROVAL_REQUESTED = "hitl_approval_requested"
    HITL_DECISION_MADE = "hitl_decision_made"
    HITL_TIMEOUT_OCCURRED = "hitl_timeout_occurred"
    LLM_REQUEST_STARTED = "llm_request_started"
    LLM_REQUEST_COMPLETED = "llm_request_completed"
    LLM_REQUEST_FAILED = "llm_request_failed"
    SYSTEM_STARTUP = "system_startup"
    SYSTEM_SHUTDOWN = "system_shutdown"
    BACKGROUND_TASK_STARTED = "background_task_started"
    BACKGROUND_TASK_COMPLETED = "background_task_completed"
    DATABASE_QUERY_EXECUTED = "database_query_executed"
    METRICS_COLLECTED = "metrics_collected"
    PERFORMANCE_MEASURED = "performance_measured"

    __hash__ = str.__hash__

    @classmethod
    def _missing_(cls, value: object) -> EventType | None:
        if not isinstance(value, str) or "." not in value:
            return None
        name = value.replace(".", "_")
        # Older publishers prefix some types with their category: system.background_task.started,
        # metrics.performance.measured.
        for candidate in (name, name.partition("_")[2]):
            if (member := cls._value2member_map_.get(candidate)) is not None:
                return member  # type: ignore[return-value]
        return None


_T, _C = EventType, EventCategory

CATEGORY_OF: dict[EventType, EventCategory] = {
    **dict.fromkeys(
        (
            _T.AGENT_SWITCHED,
            _T.AGENT_PROCESSING_STARTED,
            _T.AGENT_PROCESSING_COMPLETED,
            _T.AGENT_ERROR_OCCURRED,
            _T.AGENT_REGISTERED,
        ),
        _C.AGENT,
    ),
    **dict.fromkeys((_T.SESSION_CREATED, _T.SESSION_UPDATED, _T.SESSION_DELETED, _T.MESSAGE_ADDED), _C.SESSION),
    **dict.fromkeys(
        (
            _T.TOOL_EXECUTION_REQUESTED,
            _T.TOOL_EXECUTION_STARTED,
            _T.TOOL_EXECUTION_COMPLETED,
            _T.TOOL_EXECUTION_FAILED,
        ),
        _C.TOOL,
    ),
    **dict.fromkeys(
        (
            _T.TOOL_APPROVAL_REQUIRED,
            _T.HITL_APPROVAL_REQUESTED,
            _T.HITL_DECISION_MADE,
            _T.HITL_TIMEOUT_OCCURRED,
        ),
        _C.HITL,
    ),
    **dict.fromkeys((_T.LLM_REQUEST_STARTED, _T.LLM_REQUEST_COMPLETED, _T.LLM_REQUEST_FAILED), _C.LLM),
    **dict.fromkeys(
        (
            _T.SYSTEM_STARTUP,
            _T.SYSTEM_SHUTDOWN,
            _T.BACKGROUND_TASK_STARTED,
            _T.BACKGROUND_TASK_COMPLETED,
            _T.DATABASE_QUERY_EXECUTED,
        ),
        _C.SYSTEM,
    ),
    **dict.fromkeys((_T.METRICS_COLLECTED, _T.PERFORMANCE_MEASURED), _C.METRICS),
}
