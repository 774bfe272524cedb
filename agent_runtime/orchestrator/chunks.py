"""What a client is sent while a turn goes on: one JSON object a chunk."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a stream; keys that are None are left out of its JSON.

    Attributes:
        type: what it is about.
        token: the next piece of text. content: a whole text.
        requires_approval: a tool call waits for a person.
    """

    type: Literal["assistant_message", "tool_call", "agent_switched", "error", "done"]
    content: str | None = None
    token: str | None = None
    is_final: bool | None = None
    call_id: str | None = None
    tool_name: str | None = None
    arguments: dict[str, Any] | None = None
    requires_approval: bool | None = None
    error: str | None = None
    metadata: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its keys, without those that are None."""
        return {key: value for key, value in asdict(self).items() if value is not None}
