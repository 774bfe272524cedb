"""Events about calls of language models."""

from __future__ import annotations

from typing import Unpack

from agent_runtime.events.base_event import BaseEvent, Common, new_event_id
from agent_runtime.events.event_types import EventType
from agent_runtime.events.fields import COUNT, DURATION, FLAG, NAME, TEXT, Field


class LLMRequestStartedEvent(BaseEvent):
    """A model was called. ``request_id`` joins it with its end; one is minted if none is given."""

    __slots__ = ()
    TYPE = EventType.LLM_REQUEST_STARTED
    FIELDS = (
        Field("model", NAME),
        Field("provider", NAME, required=False),
        Field("messages_count", COUNT, required=False),
        Field("tools_count", COUNT, required=False),
        Field("request_id", NAME, required=False),
        Field("agent", NAME, required=False),
    )

    def __init__(
        self,
        *,
        model: str,
        messages_count: int = 0,
        tools_count: int = 0,
        request_id: str | None = None,
        provider: str | None = None,
        agent: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            data={
                "model": model,
                "messages_count": messages_count,
                "tools_count": tools_count,
                "request_id": request_id or new_event_id(),
                "provider": provider,
                "agent": agent,
            },
            **common,
        )


class LLMRequestCompletedEvent(BaseEvent):
    """A model answered. Durations in milliseconds, counts in tokens; ``cached_tokens`` are part of
    ``prompt_tokens``."""

    __slots__ = ()
    TYPE = EventType.LLM_REQUEST_COMPLETED
    FIELDS = (
        Field("model", NAME),
        Field("duration_ms", DURATION),
        Field("prompt_tokens", COUNT, required=False),
        Field("completion_tokens", COUNT, required=False),
        Field("total_tokens", COUNT, required=False),
        Field("has_tool_calls", FLAG, required=False),
        Field("request_id", NAME, required=False),
        Field("time_to_first_chunk_ms", DURATION, required=False),
        Field("finish_reason", NAME, required=False),
        Field("cached_tokens", COUNT, required=False),
        Field("agent", NAME, required=False),
        Field("provider", NAME, required=False),
    )

    def __init__(
        self,
        *,
        model: str,
        duration_ms: float,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        total_tokens: int = 0,
        has_tool_calls: bool = False,
        request_id: str | None = None,
        time_to_first_chunk_ms: float | None = None,
        finish_reason: str | None = None,
        cached_tokens: int = 0,
        agent: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            data={
                "model": model,
                "duration_ms": duration_ms,
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": total_tokens,
                "has_tool_calls": has_tool_calls,
                "request_id": request_id or new_event_id(),
                "time_to_first_chunk_ms": time_to_first_chunk_ms,
                "finish_reason": finish_reason,
                "cached_tokens": cached_tokens,
                "agent": agent,
            },
            **common,
        )


class LLMRequestFailedEvent(BaseEvent):
    """A call of a model failed. ``error`` is the message, ``error_type`` a short class of errors."""

    __slots__ = ()
    TYPE = EventType.LLM_REQUEST_FAILED
    FIELDS = (
        Field("model", NAME),
        Field("error", TEXT),
        Field("error_type", NAME),
        Field("duration_ms", DURATION, required=False),
        Field("request_id", NAME, required=False),
        Field("agent", NAME, required=False),
        Field("provider", NAME, required=False),
    )

    def __init__(
        self,
        *,
        model: str,
        error: str,
        error_type: str = "error",
        duration_ms: float | None = None,
        request_id: str | None = None,
        agent: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            data={
                "model": model,
                "error": error,
                "error_type": error_type,
                "duration_ms": duration_ms,
                "request_id": request_id or new_event_id(),
                "agent": agent,
            },
            **common,
        )
