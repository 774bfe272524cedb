"""CloudEvents 1.0 (https://github.com/cloudevents/spec, JSON event format and HTTP protocol binding) as our events."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from agent_runtime.events.base_event import BaseEvent, as_uuid
from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.fields import json_name
from agent_runtime.events.parsing import parse_event

# An id is unique within its source only, and need not be a UUID; ours is then made of both.
_NAMESPACE = uuid.UUID("6e0b3a52-8a0c-5f0e-9d5f-5a7c9b1d2e43")


def from_cloudevent(value: Any) -> BaseEvent:
    """The event that a CloudEvent carries: ``type`` is ours in either spelling, ``data`` its data, the extensions
    ``correlationid``, ``causationid`` and ``sessionid`` (else ``subject``) its ids.

    Raises:
        InvalidEvent: it is no CloudEvent 1.0, or what it carries is no event of ours; names the attribute.
    """
    if not isinstance(value, dict):
        raise InvalidEvent("", f"expected an object, got {json_name(value)}")
    if value.get("specversion") != "1.0":
        raise InvalidEvent("specversion", f"expected '1.0', got {str(value.get('specversion'))[:40]!r}")
    for name in ("id", "source", "type"):
        if not isinstance(value.get(name), str) or not value[name]:
            raise InvalidEvent(name, "is required and must be a string")
    if "data_base64" in value:
        raise InvalidEvent("data_base64", "is not supported: send the data as JSON in data")
    session_id = value.get("sessionid")
    return parse_event(
        {
            "event_id": _event_id(value["id"], value["source"]),
            "event_type": value["type"],
            "timestamp": value.get("time"),
            "session_id": value.get("subject") if session_id is None else session_id,
            "correlation_id": value.get("correlationid"),
            "causation_id": value.get("causationid"),
            "data": value.get("data"),
            "source": value["source"],
        }
    )


def from_headers(headers: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The attributes of a CloudEvent in binary mode, from its ``ce-`` headers; their values are percent-encoded."""
    return {
        name[3:].decode("latin-1"): unquote(text.decode("latin-1"), errors="surrogateescape")
        for name, text in headers.items()
        if name.startswith(b"ce-")
    }


def _event_id(given: str, source: str) -> str:
    try:
        return as_uuid(given, "id")
    except InvalidEvent:
        text = f"{source}\n{given}".encode("utf-8", "surrogatepass")
        return str(uuid.uuid5(_NAMESPACE, text.decode("utf-8", "backslashreplace")))
