"""Events about agents: switches, runs, errors."""

from __future__ import annotations

from typing import Any, Unpack

from agent_runtime.events.base_event import BaseEvent, Common
from agent_runtime.events.content import PREVIEW_CHARACTERS, content_capture
from agent_runtime.events.event_types import EventType
from agent_runtime.events.fields import COUNT, DURATION, FLAG, NAME, TEXT, Field

UNKNOWN_AGENT = "unknown"


class AgentSwitchedEvent(BaseEvent):
    """Control of a session passed from one agent to another."""

    __slots__ = ()
    TYPE = EventType.AGENT_SWITCHED
    FIELDS = (
        Field("from_agent", NAME),
        Field("to_agent", NAME),
        Field("reason", TEXT, required=False),
        Field("confidence", TEXT, required=False),
    )

    def __init__(
        self,
        *,
        from_agent: str,
        to_agent: str,
        reason: str = "",
        confidence: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            data={"from_agent": from_agent, "to_agent": to_agent, "reason": reason, "confidence": confidence}, **common
        )


class AgentProcessingStartedEvent(BaseEvent):
    """An agent began to work on a message. The message itself is kept (as a preview) only while content capture is
    on."""

    __slots__ = ()
    TYPE = EventType.AGENT_PROCESSING_STARTED
    FIELDS = (
        Field("agent", NAME),
        Field("message_length", COUNT, required=False),
        Field("message_preview", TEXT, required=False),
    )

    def __init__(self, *, agent_type: str = UNKNOWN_AGENT, message: str = "", **common: Unpack[Common]) -> None:
        data: dict[str, Any] = {"agent": agent_type, "message_length": len(message)}
        if content_capture.enabled:
            data["message_preview"] = message[:PREVIEW_CHARACTERS]
        super().__init__(data=data, **common)


class AgentProcessingCompletedEvent(BaseEvent):
    """An agent has finished its run, well or badly. ``duration_ms`` is wall time in milliseconds."""

    __slots__ = ()
    TYPE = EventType.AGENT_PROCESSING_COMPLETED
    FIELDS = (Field("agent", NAME), Field("duration_ms", DURATION), Field("success", FLAG))

    def __init__(
        self, *, agent_type: str = UNKNOWN_AGENT, duration_ms: float, success: bool = True, **common: Unpack[Common]
    ) -> None:
        super().__init__(data={"agent": agent_type, "duration_ms": duration_ms, "success": success}, **common)


class AgentErrorOccurredEvent(BaseEvent):
    """An agent failed. ``error_type`` is a short class of errors, such as an exception name."""

    __slots__ = ()
    TYPE = EventType.AGENT_ERROR_OCCURRED
    FIELDS = (Field("agent", NAME), Field("error_message", TEXT), Field("error_type", NAME))

    def __init__(
        self, *, agent_type: str = UNKNOWN_AGENT, error_message: str, error_type: str, **common: Unpack[Common]
    ) -> None:
        super().__init__(data={"agent": agent_type, "error_message": error_message, "error_type": error_type}, **common)


class AgentRegisteredEvent(BaseEvent):
    """An agent is known to the router from now on."""

    __slots__ = ()
    TYPE = EventType.AGENT_REGISTERED
    FIELDS = (Field("agent", NAME),)

    def __init__(self, *, agent_type: str, **common: Unpack[Common]) -> None:
        super().__init__(data={"agent": agent_type}, **common)
