"""The tool calls of one answer: each is run, handed to the client, put before a person, or refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from agent_runtime.agents import Agent
from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.fields import check_object, name_problem
from agent_runtime.events.tool_events import (
    ToolExecutionFailedEvent,
    ToolExecutionRequestedEvent,
    ToolExecutionStartedEvent,
)
from agent_runtime.hitl.models import Approval
from agent_runtime.llm import ToolCall
from agent_runtime.orchestrator.chunks import Chunk
from agent_runtime.orchestrator.records import ERROR, parsed
from agent_runtime.orchestrator.services import Services
from agent_runtime.tools import ToolResult

SOURCE = "orchestrator"

Emit = Callable[[Chunk], Awaitable[None]]


class _Question(NamedTuple):
    """A call that a person is to be asked about, and the event that it was requested with."""

    call_id: str
    tool_name: str
    arguments: dict[str, Any]
    reason: str
    cause: str


class Calls:
    """Handles calls.

    Args:
        services: what it works with.
        session_id: an existing session.
        emit: takes each chunk for the client.

    Attributes:
        asked: the approvals that were asked for; somebody has to go on after each.
    """

    def __init__(self, services: Services, session_id: str, emit: Emit) -> None:
        self._with = services
        self._session_id = session_id
        self._emit = emit
        self.asked: list[Approval] = []

    async def handle(self, agent: Agent, calls: Sequence[ToolCall]) -> None:
        """Do what an answer asks for, in order; people are asked last, when nothing can fail any more."""
        await self._with.sessions.save_now(self._session_id)
        asked_for_by = EventCorrelation.get_causation_id()
        questions = []
        for call in calls:
            EventCorrelation.set_causation_id(asked_for_by)
            question = await self._handle(agent, call)
            if question is not None:
                questions.append(question)
        last = EventCorrelation.get_causation_id()
        for question in questions:
            await self._ask(agent, question)
        EventCorrelation.set_causation_id(last)
        await self._with.sessions.save_now(self._session_id)

    async def _handle(self, agent: Agent, call: ToolCall) -> _Question | None:
        """One call, up to its result if nobody has to be waited for."""
        name = call.name if name_problem(call.name) is None else "invalid"
        arguments = _storable(parsed(call.arguments))
        given = arguments if arguments is not None else {}
        requested = ToolExecutionRequestedEvent(
            tool_name=name,
            arguments=dict(given),
            call_id=call.call_id,
            agent=agent.name,
            session_id=self._session_id,
            source=SOURCE,
        )
        await self._with.bus.publish(requested)
        EventCorrelation.set_causation_id(requested.event_id)
        refusal = self._refusal(agent, name, arguments)
        reason = self._with.hitl.policy.decide(name, given)
        if refusal is None and reason is not None:
            return _Question(call.call_id, name, given, reason, requested.event_id)
        if refusal is None and name in self._with.remote_tools:
            await self.hand_out(name, call.call_id, given)
            return None
        await self._tell(name, call.call_id, given)
        if refusal is None:
            result = await self.execute(agent, name, call.call_id, given)
        else:
            result = await self._refuse(name, call.call_id, *refusal)
        await self.answer(call.call_id, result)
        return None

    def _refusal(self, agent: Agent, name: str, arguments: dict[str, Any] | None) -> tuple[str, str] | None:
        """error_type and reason why a call is not even tried."""
        if arguments is None:
            return "invalid_arguments", "the arguments must be a JSON object"
        if self._with.tools.registry.get(name) is None:
            return "unknown_tool", "there is no such tool"
        if name not in self.allowed(agent):
            return "not_allowed", f"{agent.name} may not use {name}"
        if name == "switch_mode" and isinstance(mode := arguments.get("mode"), str):
            if mode not in self._with.router.agents:
                return "invalid_arguments", f"there is no such agent, only {', '.join(self._with.router.agents)}"
            if mode == agent.name:
                return "invalid_arguments", f"you are {agent.name}"
        return None

    def allowed(self, agent: Agent) -> Sequence[str]:
        """The tools that an agent may call."""
        names = self._with.tools.registry.names
        return names if agent.tools is None else tuple(name for name in agent.tools if name in names)

    async def _ask(self, agent: Agent, question: _Question) -> None:
        EventCorrelation.set_causation_id(question.cause)
        approval = await self._with.hitl.request(
            session_id=self._session_id,
            call_id=question.call_id,
            tool_name=question.tool_name,
            arguments=question.arguments,
            agent=agent.name,
            reason=question.reason,
        )
        self.asked.append(approval)
        await self._tell(question.tool_name, question.call_id, question.arguments, requires_approval=True)

    async def execute(self, agent: Agent, name: str, call_id: str, arguments: dict[str, Any]) -> ToolResult:
        """Run a tool here; its end becomes the cause of what follows."""
        result = await self._with.tools.execute(
            session_id=self._session_id,
            agent=agent.name,
            tool_name=name,
            call_id=call_id,
            arguments=arguments,
            # An agent without files has no tool that writes any; a rule would only forbid it to run commands.
            file_rule=agent.file_rule or None,
        )
        EventCorrelation.set_causation_id(result.event_id)
        return result

    async def hand_out(self, name: str, call_id: str, arguments: dict[str, Any]) -> None:
        """Give a call to the client, who answers with ``tool_result``."""
        started = ToolExecutionStartedEvent(tool_name=name, call_id=call_id, session_id=self._session_id, source=SOURCE)
        await self._with.bus.publish_many([started])
        await self._tell(name, call_id, arguments, metadata={"remote": True})

    async def _refuse(self, name: str, call_id: str, error_type: str, why: str) -> ToolResult:
        """A call that is not run at all is a failed one."""
        failed = ToolExecutionFailedEvent(
            tool_name=name,
            call_id=call_id,
            error_message=why,
            error_type=error_type,
            duration_ms=0.0,
            session_id=self._session_id,
            source=SOURCE,
        )
        await self._with.bus.publish(failed)
        EventCorrelation.set_causation_id(failed.event_id)
        return ToolResult(False, why, error_type, failed.event_id)

    async def answer(self, call_id: str, result: ToolResult) -> None:
        """Put a call's result into the conversation, durably."""
        content = result.content if result.ok else f"{ERROR}{result.content}"
        message = {"role": "tool", "tool_call_id": call_id, "content": content}
        await self._with.sessions.add_message(self._session_id, message)
        await self._with.sessions.save_now(self._session_id)

    async def _tell(
        self,
        name: str,
        call_id: str,
        arguments: dict[str, Any],
        requires_approval: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        await self._emit(
            Chunk(
                "tool_call",
                call_id=call_id,
                tool_name=name,
                arguments=arguments,
                requires_approval=requires_approval,
                metadata=metadata,
            )
        )


def _storable(arguments: dict[str, Any] | None) -> dict[str, Any] | None:
    """The arguments, if events and rows can hold them (finite numbers, bounded depth and size), else None."""
    if arguments is not None:
        try:
            check_object(arguments, "arguments")
        except InvalidEvent:
            return None
    return arguments
