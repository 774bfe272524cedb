"""A service with agents, between a model and a backend for spans; and what the records say afterwards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.openai_fixture import OpenAIServer
from tests.real_data import total
from tests.service import Service

ROUTING = "Choose who should take"
EVENT_KEYS = ("event_type", "session_id", "correlation_id")

Event = dict[str, Any]


def world(folder: Path, model: OpenAIServer, env: Mapping[str, str] | None = None) -> Service:
    """A service in runtime mode, that is not started yet."""
    variables = {
        "AGENT_RUNTIME__LLM_PROXY_URL": model.base_url,
        "AGENT_RUNTIME__LLM_MODEL": "gpt-4o-mini",
        "AGENT_RUNTIME__WORKSPACE": str(folder / "workspace"),
        "AGENT_RUNTIME__LATE_SECONDS": "0.3",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **(env or {}),
    }
    return Service(folder, variables, arguments=())


def to(agent: str) -> dict[str, Any]:
    """A row of the model's: it routes every message to that agent."""
    decision = f'{{"agent": "{agent}", "confidence": "high", "reasoning": "it is theirs"}}'
    return {"when": {"last": f"^user: {ROUTING}"}, "text": decision}


def calls(*calls: tuple[str, str, Any], when: str = "^user: ", **more: Any) -> dict[str, Any]:
    """A row of the model's: it asks for these tool calls (id, name, arguments)."""
    rows = [{"id": call_id, "name": name, "arguments": arguments} for call_id, name, arguments in calls]
    return {"when": {"last": when}, "tool_calls": rows, **more}


def says(*text: str, when: str = "", **more: Any) -> dict[str, Any]:
    """A row of the model's: it says that, in these pieces."""
    return {"when": {"last": when}, "text": list(text), **more}


def stored(service: Service, **filters: str) -> list[Event]:
    """All events that match, in store order."""
    events: list[Event] = []
    cursor: int | None = 0
    while cursor is not None:
        page = service.client.get("/events", params={"limit": 1000, "cursor": cursor, **filters}).json()
        events += page["events"]
        cursor = page["next_cursor"]
    return events


def types(service: Service, session_id: str) -> list[str]:
    """The types of a session's events, in store order."""
    return [event["event_type"] for event in stored(service, session_id=session_id)]


def roots(events: list[Event]) -> list[str]:
    """The types of those events whose cause is not among them."""
    known = {event["event_id"] for event in events}
    return [event["event_type"] for event in events if event["causation_id"] not in known]


def history(service: Service, session_id: str) -> list[dict[str, Any]]:
    """The conversation, as the chat format has it."""
    rows = service.client.get(f"/sessions/{session_id}/history").json()["messages"]
    kept = ("role", "content", "tool_calls", "tool_call_id")
    return [{key: row[key] for key in kept if row.get(key) is not None} for row in rows]


def metrics(service: Service) -> str:
    """The exposition."""
    return service.client.get("/metrics").text


def settled(service: Service, turns: int) -> str:
    """The exposition, when so many turns are settled."""
    service.wait_until(
        lambda: total(metrics(service), "gen_ai_invoke_workflow_duration_seconds_count") >= turns,
        f"{turns} turns to be settled",
    )
    return metrics(service)
