"""One turn of a session: who takes the message, what they call, and where it has to wait for somebody.

What a turn needs to go on after a wait or a crash is not kept here: the conversation is in the session, the question
    in the approval, and the open run in the event store.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from agent_runtime.agents import ORCHESTRATOR, UNIVERSAL, Agent
from agent_runtime.events.agent_events import (
    AgentErrorOccurredEvent,
    AgentProcessingCompletedEvent,
    AgentProcessingStartedEvent,
)
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.event_types import EventType
from agent_runtime.events.fields import name_problem
from agent_runtime.events.redaction import redact_text
from agent_runtime.events.tool_events import (
    ToolExecutionCompletedEvent,
    ToolExecutionFailedEvent,
    ToolExecutionRequestedEvent,
    ToolExecutionStartedEvent,
)
from agent_runtime.hitl.announcements import outcome_event_id
from agent_runtime.hitl.decisions import Status
from agent_runtime.hitl.models import Approval
from agent_runtime.llm import Answer, LLMError, ToolCall
from agent_runtime.orchestrator.chunks import Chunk
from agent_runtime.orchestrator.services import Services
from agent_runtime.sessions.errors import TooManySwitches
from agent_runtime.tools import ToolResult

logger = logging.getLogger("agent_runtime.orchestrator")

SOURCE = "orchestrator"
MAX_ERROR = 500

Emit = Callable[[Chunk], Awaitable[None]]


class TurnFailed(Exception):
    """The turn can't go on; told to the client. ``error_type`` is a short class of errors."""

    def __init__(self, error_type: str, message: str) -> None:
        self.error_type = error_type
        super().__init__(message)


class _Calls(NamedTuple):
    """What became of the tool calls of one answer."""

    waiting: bool = False
    switch_to: str | None = None
    switch_reason: str = ""
    final: str | None = None


class Turn:
    """A turn, or its continuation. Runs in a task of its own; correlation and cause are that task's context.

    Args:
        services: what it works with.
        session_id: an existing session.
        emit: takes each chunk for the client.
    """

    def __init__(self, services: Services, session_id: str, emit: Emit) -> None:
        self._with = services
        self._session_id = session_id
        self._emit = emit

    # -- beginnings ----------------------------------------------------------------------------------------------------

    async def message(self, content: str, agent_type: str | None) -> None:
        """A user's message: choose who takes it, and let them."""
        added = await self._with.sessions.add_message(self._session_id, {"role": "user", "content": content})
        EventCorrelation.set_causation_id(added.message_id)
        await self._run(await self._choose(content, agent_type), content)

    async def decided(self, approval: Approval) -> None:
        """A call was decided about, or nobody did in time: run it or tell the model why not, and go on."""
        if approval.call_id not in await self.unanswered():
            return
        EventCorrelation.set_causation_id(outcome_event_id(approval))
        agent = self._with.router.get(approval.agent or UNIVERSAL)
        if approval.status in (Status.APPROVED, Status.EDITED):
            arguments = approval.granted_arguments()
            if approval.tool_name in self._with.remote_tools:
                await self._hand_out(approval.tool_name, approval.call_id, arguments)
                return
            result = await self._execute(agent, approval.tool_name, approval.call_id, arguments)
        elif approval.status == Status.EXPIRED:
            result = ToolResult(False, "Nobody approved this call in time, so it was not run.")
        else:
            said = f" They say: {approval.feedback}" if approval.feedback else ""
            result = ToolResult(False, f"The user did not approve this call, so it was not run.{said}")
        await self._answer(approval.call_id, result)
        await self._go_on(agent)

    async def remote_result(self, call_id: str, result: str | None, error: str | None) -> None:
        """The client ran a tool: take its result, and go on.

        Raises:
            TurnFailed: no call of that id was handed out, or it was answered already.
        """
        started = self._find(EventType.TOOL_EXECUTION_STARTED, call_id)
        if started is None or call_id not in await self.unanswered():
            raise TurnFailed("unknown_call", f"call_id: no call {call_id[:80]} of this session waits for a result")
        common: dict[str, Any] = {
            "tool_name": started.data["tool_name"],
            "call_id": call_id,
            "session_id": self._session_id,
            "correlation_id": started.correlation_id,
            "causation_id": started.event_id,
            "source": SOURCE,
        }
        EventCorrelation.set_correlation_id(started.correlation_id)
        duration_ms = max(0, time.time_ns() // 1000 - started.time_us) / 1000
        ended: BaseEvent
        if error is None:
            content = result or ""
            ended = ToolExecutionCompletedEvent(duration_ms=duration_ms, result_length=len(content), **common)
        else:
            content = error
            message = redact_text(error, MAX_ERROR)
            ended = ToolExecutionFailedEvent(
                error_message=message, error_type="remote_error", duration_ms=duration_ms, **common
            )
        await self._with.bus.publish(ended)
        EventCorrelation.set_causation_id(ended.event_id)
        await self._answer(call_id, ToolResult(error is None, content))
        opened = await self.open_run()
        await self._go_on(self._with.router.get(opened.data["agent"] if opened is not None else UNIVERSAL))

    async def switch(self, agent_type: str, reason: str) -> None:
        """The user asks for another agent."""
        self._with.router.get(agent_type)
        await self._switch(agent_type, reason or "requested by the user", None)

    # -- who -----------------------------------------------------------------------------------------------------------

    async def _choose(self, content: str, agent_type: str | None) -> Agent:
        router = self._with.router
        if not self._with.multi_agent:
            return router.get(UNIVERSAL)
        if agent_type is not None:
            router.get(agent_type)
            await self._switch(agent_type, "requested by the user", None)
            return router.get(agent_type)
        context = await self._with.contexts.get(self._session_id)
        if context.current_agent != ORCHESTRATOR:
            return router.get(context.current_agent)
        return await self._route(content)

    async def _route(self, content: str) -> Agent:
        """The orchestrator's own run: ask the model who should take the message, and pass it on."""
        router, orchestrator = self._with.router, self._with.router.get(ORCHESTRATOR)
        started = await self._begin(orchestrator, content)
        try:
            messages = [
                {"role": "system", "content": orchestrator.prompt},
                {"role": "user", "content": router.question(content)},
            ]
            answer = await self._ask(orchestrator, messages, (), silent=True)
        except BaseException as error:
            await self._failed(orchestrator, started, error)
            raise
        routing = router.read(answer.text, content)
        cause = EventCorrelation.get_causation_id()
        await self._completed(orchestrator, started, success=True)
        EventCorrelation.set_causation_id(cause)
        await self._switch(routing.agent, routing.reasoning, routing.confidence)
        return router.get(routing.agent)

    async def _switch(self, to_agent: str, reason: str, confidence: str | None) -> None:
        before = (await self._with.contexts.get(self._session_id)).current_agent
        if before == to_agent:
            return
        try:
            context = await self._with.contexts.request_switch(self._session_id, to_agent, reason, confidence)
        except TooManySwitches as error:
            raise TurnFailed("too_many_switches", str(error)) from None
        if context.last_event_id is not None:
            EventCorrelation.set_causation_id(context.last_event_id)
        details = {"from_agent": before, "to_agent": to_agent, "reason": reason}
        await self._emit(Chunk("agent_switched", content=f"{before} → {to_agent}", metadata=details))

    # -- an agent's run ------------------------------------------------------------------------------------------------

    async def _run(self, agent: Agent, content: str) -> None:
        await self._loop(agent, await self._begin(agent, content))

    async def _begin(self, agent: Agent, content: str) -> BaseEvent:
        started = AgentProcessingStartedEvent(
            agent_type=agent.name, message=content, session_id=self._session_id, source=SOURCE
        )
        await self._with.bus.publish(started)
        EventCorrelation.set_causation_id(started.event_id)
        return started

    async def _go_on(self, agent: Agent) -> None:
        """Continue the open run, if nothing of the last answer is left to wait for."""
        if await self.unanswered():
            return
        started = await self.open_run()
        if started is not None:
            await self._loop(agent, started)

    async def _loop(self, agent: Agent, started: BaseEvent) -> None:
        """Ask the model and do what it asks for, until it is done, somebody must be waited for, or another takes
        over."""
        while True:
            try:
                calls = await self._steps(agent)
            except BaseException as error:
                await self._failed(agent, started, error)
                raise
            if calls.waiting:
                return
            if calls.final is not None:
                await self._emit(Chunk("assistant_message", content=calls.final, is_final=True))
            cause = EventCorrelation.get_causation_id()
            if calls.switch_to is None:
                await self._completed(agent, started, success=True)
                return
            await self._completed(agent, started, success=True)
            EventCorrelation.set_causation_id(cause)
            await self._hand_over(agent, calls)
            agent = self._with.router.get(calls.switch_to)
            started = await self._begin(agent, "")

    async def _hand_over(self, agent: Agent, calls: _Calls) -> None:
        assert calls.switch_to is not None
        try:
            await self._switch(calls.switch_to, calls.switch_reason or f"asked for by {agent.name}", None)
        except TurnFailed as error:
            await self._publish_error(agent, error)
            raise

    async def _steps(self, agent: Agent) -> _Calls:
        for _ in range(self._with.max_steps):
            history = await self._with.sessions.history(self._session_id)
            messages = [{"role": "system", "content": agent.prompt}, *history]
            answer = await self._ask(agent, messages, self._with.tools.registry.specs(self._allowed(agent)))
            await self._with.sessions.add_message(self._session_id, _assistant_message(answer), agent.name)
            if not answer.tool_calls:
                return _Calls(final=answer.text)
            calls = await self._calls(agent, answer.tool_calls)
            if calls != _Calls():
                return calls
        raise TurnFailed("step_limit", f"{agent.name} was not done after {self._with.max_steps} model calls")

    def _allowed(self, agent: Agent) -> Sequence[str]:
        names = self._with.tools.registry.names
        return tuple(names) if agent.tools is None else tuple(name for name in agent.tools if name in names)

    async def _ask(
        self, agent: Agent, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], silent: bool = False
    ) -> Answer:
        stream = self._with.llm.stream(
            session_id=self._session_id, agent=agent.name, model=self._with.model, messages=messages, tools=tools
        )
        async with aclosing(stream) as items:
            async for item in items:
                if isinstance(item, Answer):
                    return item
                if not silent:
                    await self._emit(Chunk("assistant_message", token=item.text, is_final=False))
        raise LLMError("bad_answer", "the model's stream ended without an answer")

    # -- tool calls ----------------------------------------------------------------------------------------------------

    async def _calls(self, agent: Agent, calls: Sequence[ToolCall]) -> _Calls:
        """Every call of an answer: run, hand out, or ask a person; in order."""
        await self._with.sessions.save_now(self._session_id)
        asked_for_by = EventCorrelation.get_causation_id()
        outcome = _Calls()
        for call in calls:
            EventCorrelation.set_causation_id(asked_for_by)
            name, arguments = _name(call.name), _parsed(call.arguments)
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
            reason = self._with.hitl.policy.decide(name, given) if arguments is not None else None
            allowed = name in self._allowed(agent)
            await self._emit(
                Chunk(
                    "tool_call",
                    call_id=call.call_id,
                    tool_name=name,
                    arguments=given,
                    requires_approval=allowed and reason is not None,
                )
            )
            if arguments is None:
                result = await self._refuse(name, call.call_id, "invalid_arguments", "the arguments are no JSON object")
            elif not allowed:
                result = await self._refuse(name, call.call_id, "not_allowed", f"{agent.name} has no tool {name}")
            elif reason is not None:
                await self._with.hitl.request(
                    session_id=self._session_id,
                    call_id=call.call_id,
                    tool_name=name,
                    arguments=given,
                    agent=agent.name,
                    reason=reason,
                )
                outcome = outcome._replace(waiting=True)
                continue
            elif name in self._with.remote_tools:
                await self._hand_out(name, call.call_id, given)
                outcome = outcome._replace(waiting=True)
                continue
            else:
                result = await self._execute(agent, name, call.call_id, given)
                if result.ok:
                    outcome = _meaning(outcome, name, given)
                    if outcome.switch_to is not None and outcome.switch_to not in self._with.router.agents:
                        result = ToolResult(False, f"There is no agent {outcome.switch_to[:80]}.")
                        outcome = outcome._replace(switch_to=None)
            await self._answer(call.call_id, result)
        await self._with.sessions.save_now(self._session_id)
        return outcome

    async def _execute(self, agent: Agent, name: str, call_id: str, arguments: dict[str, Any]) -> ToolResult:
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

    async def _hand_out(self, name: str, call_id: str, arguments: dict[str, Any]) -> None:
        """Give a call to the client, who answers with ``tool_result``."""
        started = ToolExecutionStartedEvent(tool_name=name, call_id=call_id, session_id=self._session_id, source=SOURCE)
        await self._with.bus.publish(started)
        await self._emit(
            Chunk(
                "tool_call",
                call_id=call_id,
                tool_name=name,
                arguments=arguments,
                requires_approval=False,
                metadata={"remote": True},
            )
        )

    async def _answer(self, call_id: str, result: ToolResult) -> None:
        """Put a call's result into the conversation, durably."""
        content = result.content if result.ok else f"Error: {result.content}"
        message = {"role": "tool", "tool_call_id": call_id, "content": content}
        await self._with.sessions.add_message(self._session_id, message)
        await self._with.sessions.save_now(self._session_id)

    # -- ends ----------------------------------------------------------------------------------------------------------

    async def _completed(self, agent: Agent, started: BaseEvent, success: bool) -> None:
        duration_ms = max(0, time.time_ns() // 1000 - started.time_us) / 1000
        await self._with.bus.publish(
            AgentProcessingCompletedEvent(
                agent_type=agent.name,
                duration_ms=duration_ms,
                success=success,
                session_id=self._session_id,
                correlation_id=started.correlation_id,
                causation_id=started.event_id,
                source=SOURCE,
            )
        )

    async def _failed(self, agent: Agent, started: BaseEvent, error: BaseException) -> None:
        """Record that a run failed, also while its task is being cancelled."""

        async def record() -> None:
            await self._publish_error(agent, error)
            await self._completed(agent, started, success=False)

        await asyncio.shield(asyncio.ensure_future(record()))

    async def _publish_error(self, agent: Agent, error: BaseException) -> None:
        error_type, message = describe(error)
        await self._with.bus.publish(
            AgentErrorOccurredEvent(
                agent_type=agent.name,
                error_message=redact_text(message, MAX_ERROR),
                error_type=error_type,
                session_id=self._session_id,
                source=SOURCE,
            )
        )

    async def interrupted(self) -> None:
        """The process died in the middle of a run: end it, so that it is not open for ever."""
        started = await self.open_run()
        if started is not None:
            EventCorrelation.set_correlation_id(started.correlation_id)
            EventCorrelation.set_causation_id(started.event_id)
            agent = self._with.router.get(started.data["agent"])
            await self._failed(agent, started, TurnFailed("interrupted", "the service stopped in the middle of this"))

    # -- what the records say ------------------------------------------------------------------------------------------

    async def unanswered(self) -> list[str]:
        """The calls of the last answer that have no result yet, in order."""
        history = await self._with.sessions.history(self._session_id)
        answered: set[str] = set()
        for message in reversed(history):
            if message["role"] == "tool":
                answered.add(message["tool_call_id"])
            else:
                calls = message.get("tool_calls") or ()
                return [call["id"] for call in calls if call["id"] not in answered]
        return []

    async def open_run(self) -> BaseEvent | None:
        """The beginning of the session's last run, if that has no end."""
        kinds = (EventType.AGENT_PROCESSING_STARTED, EventType.AGENT_PROCESSING_COMPLETED)
        found = await asyncio.to_thread(
            self._with.bus.store.query, session_id=self._session_id, event_types=kinds, limit=50, newest=True
        )
        ended = {event.causation_id for event in found if event.event_type == EventType.AGENT_PROCESSING_COMPLETED}
        begun = [event for event in found if event.event_type == EventType.AGENT_PROCESSING_STARTED]
        return begun[-1] if begun and begun[-1].event_id not in ended else None

    def _find(self, kind: EventType, call_id: str) -> BaseEvent | None:
        found = self._with.bus.store.query(session_id=self._session_id, event_types=(kind,), limit=1_000, newest=True)
        return next((event for event in reversed(found) if event.data["call_id"] == call_id), None)

    def tool_of(self, call_id: str) -> str | None:
        """The tool that a call is of, as far as is recorded."""
        requested = self._find(EventType.TOOL_EXECUTION_REQUESTED, call_id)
        return None if requested is None else str(requested.data["tool_name"])

    def was_started(self, call_id: str) -> bool:
        """Whether a call had begun to run, as far as is recorded."""
        return self._find(EventType.TOOL_EXECUTION_STARTED, call_id) is not None


def describe(error: BaseException) -> tuple[str, str]:
    """error_type and message of what ended a run early; the message may be told to the client."""
    if isinstance(error, LLMError | TurnFailed):
        return error.error_type, str(error)
    if isinstance(error, asyncio.CancelledError):
        return "cancelled", "the client left, or the service is stopping"
    return "internal", "something went wrong inside the service"


def _assistant_message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.tool_calls:
        message["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
    return message


def _meaning(outcome: _Calls, name: str, arguments: dict[str, Any]) -> _Calls:
    """What a call that was run means for the turn: another agent, or its end."""
    if name == "switch_mode":
        return outcome._replace(switch_to=arguments["mode"], switch_reason=arguments.get("reason") or "")
    if name == "attempt_completion":
        return outcome._replace(final=arguments["result"])
    if name == "ask_followup_question":
        return outcome._replace(final=arguments["question"])
    return outcome


def _parsed(arguments: str) -> dict[str, Any] | None:
    """A model's arguments; None if they are no JSON object. No arguments at all are an empty object."""
    if not arguments.strip():
        return {}
    try:
        parsed = json.loads(arguments)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _name(given: str) -> str:
    return given if name_problem(given) is None else "invalid"
