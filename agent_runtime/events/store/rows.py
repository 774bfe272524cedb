"""Events as rows of a table, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.parsing import rebuild

COLUMNS = (
    "position, event_id, recorded_ns, event_type, time_us, "
    "session_id, correlation_id, causation_id, source, version, data"
)


def rows_of(events: Sequence[BaseEvent], last: int, recorded_ns: int) -> list[tuple[Any, ...]]:
    """The rows of ``events`` at the positions behind ``last``, values as in ``COLUMNS``; notes their sizes."""
    return [
        (
            position,
            event.event_id,
            recorded_ns,
            event.event_type,
            event.time_us,
            event.session_id,
            event.correlation_id,
            event.causation_id,
            event.source,
            event.version,
            _text(event),
        )
        for position, event in enumerate(events, last + 1)
    ]


def _text(event: BaseEvent) -> str:
    data = orjson.dumps(event.data)
    event.size = len(data)
    return data.decode()


def event_of(row: tuple[Any, ...]) -> BaseEvent:
    """The event that a row holds."""
    (
        position,
        event_id,
        recorded_ns,
        event_type,
        time_us,
        session_id,
        correlation_id,
        causation_id,
        source,
        version,
        data,
    ) = row
    keys = {
        "event_id": event_id,
        "session_id": session_id,
        "correlation_id": correlation_id,
        "causation_id": causation_id,
        "data": orjson.loads(data),
        "source": source,
        "version": version,
    }
    event = rebuild(keys, event_type, time_us, position, recorded_ns)
    event.size = len(data)
    return event
