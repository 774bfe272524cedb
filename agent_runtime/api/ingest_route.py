"""Where ``POST /events`` stands in the application: a plain route, described in the API's schema by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.routing import Route

from agent_runtime.api.ingest import Ingest
from agent_runtime.api.ingest_formats import CLOUDEVENT, CLOUDEVENTS

_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["event_type", "data"],
    "properties": {
        "event_id": {"type": "string", "format": "uuid", "description": "Sent again, it is answered as a duplicate."},
        "event_type": {"type": "string", "examples": ["tool_execution_completed", "tool.execution.completed"]},
        "timestamp": {"type": "string", "format": "date-time", "description": "When it happened; now by default."},
        "session_id": {"type": ["string", "null"]},
        "correlation_id": {
            "type": ["string", "null"],
            "description": "One turn, one trace; best 32 hex digits.",
        },
        "causation_id": {"type": ["string", "null"], "description": "The event that caused it."},
        "data": {"type": "object"},
        "source": {"type": "string"},
        "version": {"const": "1.0"},
    },
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "accepted": {"type": "integer"},
        "duplicates": {"type": "integer"},
        "rejected": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"index": {"type": "integer"}, "error": {"type": "string"}},
            },
        },
    },
}
_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
_REFUSALS = {
    "400": "The body is empty, or no JSON at all.",
    "401": "No key, or one that is not known.",
    "403": "The key may not send events.",
    "413": "The body, or the number of events, is above the limit.",
    "415": "A content type or an encoding that is not supported.",
    "429": "Too many requests for this key; see Retry-After.",
    "503": "The store is behind or does not answer; nothing was taken; see Retry-After.",
}
_OPERATION: dict[str, Any] = {
    "tags": ["events"],
    "summary": "Send events",
    "description": "One event, an array, NDJSON (also gzip), or CloudEvents 1.0 (structured, batch or binary). "
    "The answer comes when they are committed. One that can't be stored is refused alone, with its index and why.",
    "operationId": "post_events",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"oneOf": [_EVENT, {"type": "array", "items": _EVENT}]}},
            "application/x-ndjson": {"schema": {"type": "string", "description": "One event a line."}},
            CLOUDEVENT: {"schema": {"type": "object"}},
            CLOUDEVENTS: {"schema": {"type": "array", "items": {"type": "object"}}},
        },
    },
    "responses": {
        "202": {"description": "Committed.", "content": {"application/json": {"schema": _ANSWER}}},
        **{status: {"description": text, "content": _ERROR} for status, text in _REFUSALS.items()},
    },
}


def ingest_route(ingest: Ingest) -> Route:
    """The route; no dependency, no validation by a model stands between it and the socket."""
    return Route("/events", ingest, methods=["POST"], include_in_schema=False)


def describe_ingest(app: FastAPI) -> None:
    """Add the route to the OpenAPI schema, and the two ways to send a key."""
    schema_of_routes = app.openapi

    def openapi() -> dict[str, Any]:
        schema = schema_of_routes()
        schema["paths"].setdefault("/events", {})["post"] = _OPERATION
        schema.setdefault("components", {})["securitySchemes"] = {
            "key": {"type": "apiKey", "in": "header", "name": "X-Internal-Auth"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        schema["security"] = [{"key": []}, {"bearer": []}, {}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
