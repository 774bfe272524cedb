"""What must not be stored is taken out here, once, before the store: content unless it is wanted, and secrets always.

It runs for every event, so the common one, whose keys are all names, ids and numbers, costs a single set comparison.
"""

from __future__ import annotations

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.domain_events import DOMAIN_EVENTS
from agent_runtime.events.event_types import EventType
from agent_runtime.events.fields import OBJECT, TEXT
from agent_runtime.events.parsing import CLASS_OF
from agent_runtime.events.redaction import hashed, redact

# Content, by the keys that it goes by. Of objects the names are kept, with a hash of each value; texts become a hash.
CONTENT = frozenset(
    {
        *("arguments", "original_args", "modified_args"),
        *(
            "content",
            "message",
            "message_content",
            "messages",
            "prompt",
            "completion",
            "response",
            "result",
            "result_summary",
        ),
    }
)
DROPPED = frozenset({"message_preview"})

# Keys whose values folds, ids and labels are made of. They are checked at the edge, and never touched here.
_KEPT_IN_DOMAIN = frozenset(
    {"session_id", "aggregate_id", "message_id", "role", "agent_type", "from_agent", "to_agent", "created_by"}
)
_KEPT: dict[str, frozenset[str]] = {
    **dict.fromkeys(DOMAIN_EVENTS, _KEPT_IN_DOMAIN),
    **{
        kind: frozenset(field.name for field in CLASS_OF[kind].FIELDS if field.kind not in (TEXT, OBJECT))
        for kind in EventType
    },
}
_NOTHING: frozenset[str] = frozenset()


class Redactor:
    """Changes events before they are stored: ``EventBus(sanitise=Redactor(...))``. Doing it twice changes nothing more.

    Args:
        capture_content: keep arguments and messages. Secrets are taken out, and long texts are cut, in either case.
    """

    def __init__(self, capture_content: bool) -> None:
        self._capture_content = capture_content

    def __call__(self, event: BaseEvent) -> None:
        """Redact ``event.data`` in place. The domain event in a record keeps its values for this process's handlers."""
        data = event.data
        kept = _KEPT.get(event.event_type, _NOTHING)
        if kept.issuperset(data):
            return
        for key in [key for key in data if key not in kept]:
            value = data[key]
            if value is None:
                continue
            if not self._capture_content and key in DROPPED:
                del data[key]
            elif not self._capture_content and key in CONTENT:
                data[key] = hashed(value)
            else:
                data[key] = redact(key, value)
