"""The events of an approval, made from its row alone: made again, by whichever process, they are the same, ids and
times included. So publishing them twice is publishing them once, for the event store refuses a duplicate."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from agent_runtime.events.base_event import BaseEvent, Common
from agent_runtime.events.event_types import EventType
from agent_runtime.events.tool_events import (
    HITLApprovalRequestedEvent,
    HITLDecisionMadeEvent,
    HITLTimeoutOccurredEvent,
    ToolApprovalRequiredEvent,
)
from agent_runtime.hitl.arguments import copy_of
from agent_runtime.hitl.decisions import WORD_OF, Status
from agent_runtime.hitl.models import Approval

SOURCE = "hitl"


def request_event_id(approval_id: str) -> str:
    """The id of the approval's ``hitl_approval_requested``."""
    return _event_id(approval_id, EventType.HITL_APPROVAL_REQUESTED)


def outcome_event_id(approval: Approval) -> str:
    """The id of the event that ends it, the cause of whatever follows from the decision."""
    expired = approval.status == Status.EXPIRED
    return _event_id(approval.id, EventType.HITL_TIMEOUT_OCCURRED if expired else EventType.HITL_DECISION_MADE)


def events_of(approval: Approval) -> list[BaseEvent]:
    """All its events so far, in order: what asks, and once it is final what ends it.

    Raises:
        InvalidEvent: something in it can't be stored.
    """
    events = _request(approval)
    if approval.status != Status.PENDING:
        events.append(_outcome(approval))
    return events


def _request(approval: Approval) -> list[BaseEvent]:
    call: dict[str, Any] = {
        "tool_name": approval.tool_name,
        "call_id": approval.call_id,
        "reason": approval.reason,
    }
    events: list[BaseEvent] = []
    if approval.says_required:
        common = _common(approval, EventType.TOOL_APPROVAL_REQUIRED, approval.requested_at, approval.causation_id)
        events.append(ToolApprovalRequiredEvent(arguments=copy_of(approval.arguments), **call, **common))
    common = _common(approval, EventType.HITL_APPROVAL_REQUESTED, approval.requested_at, approval.causation_id)
    events.append(
        HITLApprovalRequestedEvent(
            arguments=copy_of(approval.arguments), timeout_seconds=approval.timeout_seconds, **call, **common
        )
    )
    return events


def _outcome(approval: Approval) -> BaseEvent:
    assert approval.decided_at is not None
    cause = request_event_id(approval.id)
    if approval.status == Status.EXPIRED:
        return HITLTimeoutOccurredEvent(
            call_id=approval.call_id,
            tool_name=approval.tool_name,
            timeout_seconds=approval.timeout_seconds,
            **_common(approval, EventType.HITL_TIMEOUT_OCCURRED, approval.decided_at, cause),
        )
    modified = approval.modified_arguments
    return HITLDecisionMadeEvent(
        call_id=approval.call_id,
        decision=WORD_OF[Status(approval.status)],
        tool_name=approval.tool_name,
        original_args=copy_of(approval.arguments),
        modified_args=None if modified is None else copy_of(modified),
        **_common(approval, EventType.HITL_DECISION_MADE, approval.decided_at, cause),
    )


def _common(approval: Approval, event_type: EventType, moment: datetime, causation_id: str | None) -> Common:
    return {
        "event_id": _event_id(approval.id, event_type),
        "session_id": approval.session_id,
        "correlation_id": approval.correlation_id,
        "causation_id": causation_id,
        "timestamp": moment,
        "source": SOURCE,
    }


def _event_id(approval_id: str, event_type: EventType) -> str:
    return str(uuid5(UUID(approval_id), event_type))
