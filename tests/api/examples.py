"""Small events for the tests of the API."""

import uuid
from typing import Any


def switched(**keys: Any) -> dict[str, Any]:
    """An agent_switched event as a client sends it; `keys` replace or add keys of the envelope."""
    event = {
        "event_id": str(uuid.uuid4()),
        "event_type": "agent_switched",
        "session_id": "s1",
        "correlation_id": "0af7651916cd43dd8448eb211c80319c",
        "data": {"from_agent": "orchestrator", "to_agent": "coder", "reason": "code"},
        "source": "test",
    }
    return event | keys


def tool_completed(duration_ms: Any = 12.5, **data: Any) -> dict[str, Any]:
    """A tool_execution_completed event; `data` adds keys to its data."""
    return {
        "event_id": str(uuid.uuid4()),
        "event_type": "tool_execution_completed",
        "session_id": "s1",
        "correlation_id": "0af7651916cd43dd8448eb211c80319c",
        "data": {"tool_name": "echo", "call_id": "c1", "duration_ms": duration_ms, **data},
    }
