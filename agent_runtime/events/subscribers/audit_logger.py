"""The audit log: who switched, who decided, what failed, what needed approval."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
import structlog

from agent_runtime.events.base_event import BaseEvent, format_time_us
from agent_runtime.events.content import content_capture
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventType
from agent_runtime.events.redaction import hashed, redact
from agent_runtime.events.store.base import EventStore
from agent_runtime.events.subscribers.folding import FoldingSubscriber

MAX_TEXT = 2_000

log = structlog.stdlib.get_logger("agent_runtime.audit")


class Audited(NamedTuple):
    """How one type of event is audited: the row's ``event_type``, the level of its line, and its own keys."""

    name: str
    level: str
    keys: tuple[str, ...]


AUDITED: dict[EventType, Audited] = {
    EventType.AGENT_SWITCHED: Audited("agent_switched", "info", ("from_agent", "to_agent", "reason", "confidence")),
    EventType.HITL_DECISION_MADE: Audited(
        "hitl_decision_made", "info", ("call_id", "decision", "tool_name", "original_args", "modified_args")
    ),
    EventType.AGENT_ERROR_OCCURRED: Audited("agent_error", "error", ("agent", "error_message", "error_type")),
    EventType.TOOL_EXECUTION_FAILED: Audited(
        "tool_execution_failed", "error", ("tool_name", "call_id", "error_message", "error_type")
    ),
    EventType.TOOL_APPROVAL_REQUIRED: Audited(
        "tool_approval_required", "warning", ("tool_name", "call_id", "reason", "arguments")
    ),
}
_TYPE_OF = {audited.name: event_type for event_type, audited in AUDITED.items()}


class AuditLogger(FoldingSubscriber):
    """Writes a structlog line for each audited event, and answers for the rows.

    Over a durable store the rows are read from the store: all there ever were, also before this process. Otherwise the
    newest are kept in memory.

    Args:
        store: a durable store to read rows from; ``attach`` takes the bus's own if that one is durable.
        capacity: how many rows are kept where there is no durable store.
    """

    name = "audit_logger"
    priority = 10

    def __init__(self, store: EventStore | None = None, capacity: int = 10_000) -> None:
        self._store = store
        self._rows: deque[dict[str, Any]] = deque(maxlen=capacity)
        self._folds = dict.fromkeys(AUDITED, self._on_audited)

    def attach(self, bus: EventBus) -> Callable[[], None]:
        """See ``FoldingSubscriber.attach``."""
        if bus.store.blocking:
            self._store = bus.store
        return super().attach(bus)

    def get_audit_log(
        self, session_id: str | None = None, event_type: str | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """The rows that match every filter given, oldest first.

        Args:
            session_id: of one session.
            event_type: of one type, in either spelling; ``agent_error`` and ``agent_error_occurred`` are the same.
            limit: the last so many; all of them by default.

        Returns:
            Rows with timestamp, event_type, event_id, session_id, correlation_id, and the keys of their type
            (``AUDITED``). Of arguments the names and hashes of the values, unless content is captured.

        Raises:
            ValueError: ``limit`` is negative. StoreError: the store can't be read.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must not be negative, got {limit}")
        types = list(AUDITED) if event_type is None else _audited_type(event_type)
        if not types or limit == 0:
            return []
        if self._store is not None:
            found = self._store.query(
                session_id=session_id, event_types=types, limit=sys.maxsize if limit is None else limit, newest=True
            )
            return [audit_row(event) for event in found]
        names = {AUDITED[kind].name for kind in types}
        rows = [
            row.copy()
            for row in self._rows.copy()
            if row["event_type"] in names and (session_id is None or row["session_id"] == session_id)
        ]
        return rows if limit is None else rows[-limit:]

    def dump(self) -> bytes:
        """See ``Projection.dump``."""
        return orjson.dumps(list(self._rows))

    def load(self, state: bytes) -> None:
        """See ``Projection.load``."""
        self._rows = deque(orjson.loads(state), self._rows.maxlen)

    def _on_audited(self, event: BaseEvent) -> None:
        row = audit_row(event)
        if self._store is None:
            self._rows.append(row)
        # A line's own timestamp is when it was written.
        fields = {key: value for key, value in row.items() if key not in ("event_type", "timestamp")}
        write = getattr(log, AUDITED[EventType(event.event_type)].level)
        write(row["event_type"], occurred_at=row["timestamp"], **fields)


def audit_row(event: BaseEvent) -> dict[str, Any]:
    """The audit row of an event whose type stands in ``AUDITED``."""
    audited = AUDITED[EventType(event.event_type)]
    row: dict[str, Any] = {
        "timestamp": format_time_us(event.time_us),
        "event_type": audited.name,
        "event_id": event.event_id,
        "session_id": event.session_id,
        "correlation_id": event.correlation_id,
    }
    for key in audited.keys:
        value = event.data.get(key)
        if isinstance(value, dict) and not content_capture.enabled:
            row[key] = hashed(value)
        else:
            row[key] = redact(key, value, MAX_TEXT)
    return row


def _audited_type(spelling: str) -> list[EventType]:
    """The audited type that ``spelling`` means; none if it is not audited, or no type at all."""
    try:
        kind = _TYPE_OF.get(spelling) or EventType(spelling)
    except ValueError:
        return []
    return [kind] if kind in AUDITED else []
