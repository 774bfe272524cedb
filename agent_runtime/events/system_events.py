"""Events about the service itself, its tasks, its database and its measurements."""

from __future__ import annotations

from typing import Unpack

from agent_runtime.events.base_event import BaseEvent, Common
from agent_runtime.events.event_types import EventType
from agent_runtime.events.fields import DURATION, FLAG, NAME, NUMBER, TEXT, Field


class SystemStartupEvent(BaseEvent):
    """The service started."""

    __slots__ = ()
    TYPE = EventType.SYSTEM_STARTUP
    FIELDS = (Field("version", TEXT, required=False),)

    def __init__(self, *, version: str = "", **common: Unpack[Common]) -> None:
        super().__init__(data={"version": version}, **common)


class SystemShutdownEvent(BaseEvent):
    """The service is stopping in an orderly way."""

    __slots__ = ()
    TYPE = EventType.SYSTEM_SHUTDOWN
    FIELDS = (Field("version", TEXT, required=False),)

    def __init__(self, *, version: str = "", **common: Unpack[Common]) -> None:
        super().__init__(data={"version": version}, **common)


class BackgroundTaskStartedEvent(BaseEvent):
    """A background task began."""

    __slots__ = ()
    TYPE = EventType.BACKGROUND_TASK_STARTED
    FIELDS = (Field("task_name", NAME),)

    def __init__(self, *, task_name: str, **common: Unpack[Common]) -> None:
        super().__init__(data={"task_name": task_name}, **common)


class BackgroundTaskCompletedEvent(BaseEvent):
    """A background task ended. ``duration_ms`` is wall time in milliseconds."""

    __slots__ = ()
    TYPE = EventType.BACKGROUND_TASK_COMPLETED
    FIELDS = (
        Field("task_name", NAME),
        Field("duration_ms", DURATION, required=False),
        Field("success", FLAG, required=False),
    )

    def __init__(
        self, *, task_name: str, duration_ms: float = 0.0, success: bool = True, **common: Unpack[Common]
    ) -> None:
        super().__init__(data={"task_name": task_name, "duration_ms": duration_ms, "success": success}, **common)


class DatabaseQueryExecutedEvent(BaseEvent):
    """A database operation ended. ``duration_ms`` is wall time in milliseconds."""

    __slots__ = ()
    TYPE = EventType.DATABASE_QUERY_EXECUTED
    FIELDS = (Field("operation", NAME), Field("duration_ms", DURATION, required=False))

    def __init__(self, *, operation: str, duration_ms: float = 0.0, **common: Unpack[Common]) -> None:
        super().__init__(data={"operation": operation, "duration_ms": duration_ms}, **common)


class MetricsCollectedEvent(BaseEvent):
    """A figure was collected."""

    __slots__ = ()
    TYPE = EventType.METRICS_COLLECTED
    FIELDS = (Field("name", NAME), Field("value", NUMBER), Field("unit", TEXT, required=False))

    def __init__(self, *, name: str, value: float, unit: str = "", **common: Unpack[Common]) -> None:
        super().__init__(data={"name": name, "value": value, "unit": unit}, **common)


class PerformanceMeasuredEvent(BaseEvent):
    """A figure of performance was measured."""

    __slots__ = ()
    TYPE = EventType.PERFORMANCE_MEASURED
    FIELDS = (Field("name", NAME), Field("value", NUMBER), Field("unit", TEXT, required=False))

    def __init__(self, *, name: str, value: float, unit: str = "", **common: Unpack[Common]) -> None:
        super().__init__(data={"name": name, "value": value, "unit": unit}, **common)
