"""Runs tools, and publishes what happens: each ``tool_execution_started`` is followed by exactly one end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.fields import name_problem
from agent_runtime.events.redaction import redact_text
from agent_runtime.events.tool_events import (
    ToolExecutionCompletedEvent,
    ToolExecutionFailedEvent,
    ToolExecutionStartedEvent,
)
from agent_runtime.tools.errors import ToolError
from agent_runtime.tools.registry import Call, ToolRegistry

logger = logging.getLogger("agent_runtime.tools")

SOURCE = "tool_executor"
MAX_ERROR_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model is told.

    Attributes:
        content: the result, or what went wrong.
        error_type: empty if ``ok``.
        event_id: of the event that recorded the end, for what follows from it.
    """

    ok: bool
    content: str
    error_type: str = ""
    event_id: str = ""


class ToolExecutor:
    """Runs the tools of a registry.

    Args:
        max_result_characters: what is longer is cut in its middle, and says so.
    """

    def __init__(self, bus: EventBus, registry: ToolRegistry, *, max_result_characters: int = 100_000) -> None:
        self.registry = registry
        self._bus = bus
        self._max_result_characters = max_result_characters

    async def execute(
        self,
        *,
        session_id: str | None,
        agent: str | None,
        tool_name: str,
        call_id: str,
        arguments: Mapping[str, Any],
        file_rule: str | None = None,
    ) -> ToolResult:
        """Run a tool; whatever it does is a result.

        The start is caused by the current cause, the end by the start, and so is what the tool itself publishes.
        Arguments and results are in no event.

        Args:
            file_rule: see ``Call.file_rule``.

        Returns:
            The result. If it is not ok, its error_type is ``unknown_tool``, ``invalid_arguments``, what the tool says,
            or the name of the exception that it should not have raised.

        Raises:
            asyncio.CancelledError: this task was cancelled; a command is killed, and the end recorded, before that.
            EventsError: the bus would not take an event. Without a recorded start, no tool is run.
        """
        call = Call(session_id, agent, call_id, file_rule)
        outer = EventCorrelation.get_causation_id()
        started = ToolExecutionStartedEvent(
            tool_name=_name(tool_name), call_id=_name(call_id), session_id=session_id, source=SOURCE
        )
        began = time.monotonic_ns()
        try:
            # Stored before the tool runs: after a crash, what may have been run is not run again.
            await self._bus.publish_many([started])
        except asyncio.CancelledError:
            # Who waits for the store may leave; what is on its way there arrives all the same.
            await self._failed(started, began, ToolError("cancelled", "was cancelled"))
            raise
        EventCorrelation.set_causation_id(started.event_id)
        try:
            content = await self._run(tool_name, arguments, call)
        except ToolError as error:
            return await self._failed(started, began, error)
        except asyncio.CancelledError:
            await self._failed(started, began, ToolError("cancelled", "was cancelled"))
            raise
        except Exception as error:
            # Its message and its traceback's values may hold content; where it happened is enough to find it.
            logger.error("tool %s raised %s at %s", started.data["tool_name"], type(error).__name__, _place(error))
            return await self._failed(started, began, ToolError(type(error).__name__, "the tool has a fault"))
        finally:
            EventCorrelation.set_causation_id(outer)
        content = self._presentable(content)
        completed = ToolExecutionCompletedEvent(
            **_common(started), duration_ms=_ms_since(began), result_length=len(content)
        )
        await self._bus.publish(completed)
        return ToolResult(True, content, event_id=completed.event_id)

    async def _run(self, tool_name: str, arguments: Mapping[str, Any], call: Call) -> str:
        tool = self.registry.get(tool_name)
        if tool is None:
            raise ToolError("unknown_tool", "there is no such tool", where=tool_name)
        return await tool.run(arguments, call)

    async def _failed(self, started: ToolExecutionStartedEvent, began: int, error: ToolError) -> ToolResult:
        event = ToolExecutionFailedEvent(
            **_common(started),
            duration_ms=_ms_since(began),
            error_type=error.error_type,
            error_message=redact_text(error.what, MAX_ERROR_MESSAGE),
        )
        await self._bus.publish(event)
        return ToolResult(False, self._presentable(error.content), error.error_type, event.event_id)

    def _presentable(self, content: str) -> str:
        """The content as every store takes it (no NUL, no lone surrogate), and not longer than allowed."""
        content = content.replace("\0", "\ufffd").encode(errors="replace").decode()
        half = self._max_result_characters // 2
        if len(content) <= 2 * half:
            return content
        return f"{content[:half]}\n… [{len(content) - 2 * half} characters left out] …\n{content[-half:]}"


def _common(started: ToolExecutionStartedEvent) -> dict[str, Any]:
    return {
        "tool_name": started.data["tool_name"],
        "call_id": started.data["call_id"],
        "session_id": started.session_id,
        "correlation_id": started.correlation_id,
        "causation_id": started.event_id,
        "source": SOURCE,
    }


def _name(given: object) -> str:
    """A name of a model's making, if an event can carry it."""
    return given if isinstance(given, str) and name_problem(given) is None else "invalid"


def _ms_since(began: int) -> float:
    return (time.monotonic_ns() - began) / 1_000_000


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
