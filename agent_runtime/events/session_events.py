"""Events about sessions and their messages."""

from __future__ import annotations

from typing import Unpack

from agent_runtime.events.base_event import BaseEvent, Common
from agent_runtime.events.event_types import EventType
from agent_runtime.events.fields import COUNT, FLAG, NAME, Field


class SessionCreatedEvent(BaseEvent):
    """A session began. Of the system prompt only the length is kept."""

    __slots__ = ()
    TYPE = EventType.SESSION_CREATED
    FIELDS = (Field("system_prompt_length", COUNT, required=False),)

    def __init__(self, *, system_prompt: str = "", **common: Unpack[Common]) -> None:
        super().__init__(data={"system_prompt_length": len(system_prompt)}, **common)


class SessionUpdatedEvent(BaseEvent):
    """Something about a session changed."""

    __slots__ = ()
    TYPE = EventType.SESSION_UPDATED
    FIELDS = (Field("update_type", NAME),)

    def __init__(self, *, update_type: str, **common: Unpack[Common]) -> None:
        super().__init__(data={"update_type": update_type}, **common)


class SessionDeletedEvent(BaseEvent):
    """A session ended. ``soft_delete``: its record is kept."""

    __slots__ = ()
    TYPE = EventType.SESSION_DELETED
    FIELDS = (Field("soft_delete", FLAG, required=False),)

    def __init__(self, *, soft_delete: bool = True, **common: Unpack[Common]) -> None:
        super().__init__(data={"soft_delete": soft_delete}, **common)


class MessageAddedEvent(BaseEvent):
    """A message joined a session. ``content_length`` is in characters."""

    __slots__ = ()
    TYPE = EventType.MESSAGE_ADDED
    FIELDS = (Field("role", NAME), Field("content_length", COUNT), Field("agent_name", NAME, required=False))

    def __init__(
        self, *, role: str, content_length: int, agent_name: str | None = None, **common: Unpack[Common]
    ) -> None:
        super().__init__(data={"role": role, "content_length": content_length, "agent_name": agent_name}, **common)
