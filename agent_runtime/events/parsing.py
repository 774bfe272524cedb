"""From JSON back to events: the only way in from outside."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from agent_runtime.events import agent_events, llm_events, session_events, system_events, tool_events
from agent_runtime.events.base_event import (
    BaseEvent,
    as_event_type,
    as_time_us,
    as_uuid,
    fill,
    new_event_id,
)
from agent_runtime.events.domain_events import DOMAIN_EVENTS, DomainRecord
from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.event_types import CATEGORY_OF, EventCategory, EventType
from agent_runtime.events.fields import json_name

MAX_EVENT_BYTES = 1_000_000

CLASS_OF: dict[EventType, type[BaseEvent]] = {
    kind.TYPE: kind
    for module in (agent_events, tool_events, session_events, llm_events, system_events)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, BaseEvent) and kind.TYPE is not None
}

_BY_SPELLING: dict[str, EventType] = {str(kind): kind for kind in EventType}
_ENVELOPE_OF = {"event_id": "event_id", "occurred_at": "timestamp"}


def parse_event(source: str | bytes | Mapping[str, Any]) -> BaseEvent:
    """Build the event that ``source`` describes, as an instance of its own class.

    Args:
        source: JSON text, or the object parsed from it, with the ten keys of ``BaseEvent.to_dict``. ``event_type``
            (either spelling) and the keys of its data are required; a missing ``event_id`` is minted, a missing
            ``timestamp`` is now.

    Raises:
        InvalidEvent: says what was wrong and where.
    """
    if isinstance(source, str | bytes):
        try:
            source = orjson.loads(source)
        except orjson.JSONDecodeError as error:
            raise InvalidEvent("", f"is not valid JSON: {error}") from None
    if not isinstance(source, Mapping):
        raise InvalidEvent("", f"expected an object, got {json_name(source)}")
    get = source.get
    spelling = get("event_type")
    if isinstance(spelling, str) and spelling in DOMAIN_EVENTS:
        return _parse_domain(source, spelling)
    kind = _BY_SPELLING.get(spelling) if type(spelling) is str else None
    if kind is None:
        kind = as_event_type(spelling)
    event_class = CLASS_OF[kind]
    data = get("data")
    source_name = get("source")
    version = get("version")
    if version is not None and version != "1.0":
        raise InvalidEvent("version", f"expected '1.0', got {str(version)[:40]!r}")
    if source_name is None:
        source_name = ""
    elif not isinstance(source_name, str):
        raise InvalidEvent("source", f"expected a string, got {json_name(source_name)}")
    event_id = get("event_id")
    timestamp = get("timestamp")
    if timestamp is not None and not isinstance(timestamp, str):
        raise InvalidEvent("timestamp", f"expected RFC 3339 text, got {json_name(timestamp)}")
    event = event_class.__new__(event_class)
    event.event_type = kind
    event.event_category = CATEGORY_OF[kind]
    event.event_id = new_event_id() if event_id is None else as_uuid(event_id, "event_id")
    event.time_us = time.time_ns() // 1000 if timestamp is None else as_time_us(timestamp)
    event.session_id = get("session_id")
    event.correlation_id = get("correlation_id")
    event.causation_id = get("causation_id")
    event.data = {} if data is None else data
    event.source = source_name
    event.version = "1.0"
    event.position = 0
    event.recorded_ns = 0
    event.size = 0
    event.check()
    return event


def _parse_domain(source: Mapping[str, Any], name: str) -> DomainRecord:
    """A stored domain event; a ``ValidationError`` of its model becomes ``InvalidEvent``."""
    data = source.get("data")
    if not isinstance(data, dict):
        raise InvalidEvent("data", f"expected an object, got {json_name(data)}")
    try:
        keys = {"event_id": source.get("event_id"), "occurred_at": source.get("timestamp")}
        domain = DOMAIN_EVENTS[name].model_validate({**data, **{key: value for key, value in keys.items() if value}})
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=False)
        # Where the session is wrong, so is the aggregate that is taken from it.
        error = next((error for error in errors if error["loc"] != ("aggregate_id",)), errors[0])
        where = ".".join(map(str, error["loc"]))
        raise InvalidEvent(_ENVELOPE_OF.get(where, f"data.{where}"), error["msg"]) from None
    record = DomainRecord.of(domain)
    record.correlation_id = source.get("correlation_id")
    record.causation_id = source.get("causation_id")
    record.source = source.get("source") or record.source
    record.check()
    return record


def rebuild(keys: Mapping[str, Any], event_type: str, time_us: int, position: int, recorded_ns: int) -> BaseEvent:
    """An event as a store read it back: trusted, so nothing is checked.

    Args:
        keys: event_id, session_id, correlation_id, causation_id, data (an object), source, version.
    """
    kind = _BY_SPELLING.get(event_type)
    if kind is None:
        record = DomainRecord.__new__(DomainRecord)
        fill(record, event_type, EventCategory.DOMAIN, keys, time_us)
        record.position, record.recorded_ns = position, recorded_ns
        record.restore()
        return record
    event_class = CLASS_OF[kind]
    event = fill(event_class.__new__(event_class), kind, CATEGORY_OF[kind], keys, time_us)
    event.position, event.recorded_ns = position, recorded_ns
    return event
