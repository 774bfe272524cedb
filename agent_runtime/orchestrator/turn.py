"""One turn of a session: who takes the message, what they do, and where it has to wait for somebody.

What a turn needs to go on after a wait or a crash is not kept here: the conversation is in the session, the question
in the approval, and the open run in the event store.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any

from agent_runtime.agents import ORCHESTRATOR, UNIVERSAL, Agent
from agent_runtime.events.agent_events import (
    AgentErrorOccurredEvent,
    AgentProcessingCompletedEvent,
    AgentProcessingStartedEvent,
)
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.redaction import redact_text
from agent_runtime.events.tool_events import ToolExecutionCompletedEvent, ToolExecutionFailedEvent
from agent_runtime.hitl.announcements import outcome_event_id
from agent_runtime.hitl.decisions import Status
from agent_runtime.hitl.models import Approval
from agent_runtime.llm import Answer, LLMError
from agent_runtime.orchestrator.calls import SOURCE, Calls, Emit
from agent_runtime.orchestrator.chunks import Chunk
from agent_runtime.orchestrator.records import Meaning, Records
from agent_runtime.orchestrator.services import Services
from agent_runtime.sessions.errors import SessionEnded, SessionsError, TooManySwitches
from agent_runtime.tools import ToolResult

MAX_ERROR = 500
EDITED = "The user changed the arguments of this call before it was run, to: "


class TurnFailed(Exception):
    """The turn can't go on; told to the client. ``error_type`` is a short class of errors."""

    def __init__(self, error_type: str, message: str) -> None:
        self.error_type = error_type
        super().__init__(message)


class Turn:
    """A turn, or its continuation. Runs in a task of its own; correlation and cause are that task's context.

    Args:
        services: what it works with.
        session_id: an existing session.
        emit: takes each chunk for the client.

    Attributes:
        asked: the approvals that were asked for.
    """

    def __init__(self, services: Services, session_id: str, emit: Emit) -> None:
        self._with = services
        self._session_id = session_id
        self._emit = emit
        self._records = Records(services, session_id)
        self._calls = Calls(services, session_id, emit)
        self.asked = self._calls.asked
        self._ended: set[str] = set()

    # -- beginnings ----------------------------------------------------------------------------------------------------

    async def message(self, content: str, agent_type: str | None) -> None:
        """A user's message: choose who takes it, and let them."""
        added = await self._with.sessions.add_message(self._session_id, {"role": "user", "content": content})
        EventCorrelation.set_causation_id(added.message_id)
        agent = await self._choose(content, agent_type)
        await self._run(agent, await self._begin(agent, content))

    async def switch(self, agent_type: str, reason: str) -> None:
        """The user asks for another agent."""
        await self._switch(agent_type, reason or "requested by the user")

    # -- continuations -------------------------------------------------------------------------------------------------

    async def decided(self, approval: Approval) -> None:
        """A call was decided about, or nobody did in time: run it or tell the model why not, and go on.

        Raises:
            TurnFailed: the call is not waited for any more.
        """
        started = await self._records.open_run()
        waited_for = approval.call_id in await self._records.unanswered()
        if started is None or started.correlation_id != approval.correlation_id or not waited_for:
            raise TurnFailed("not_waiting", f"the turn that asked about call {approval.call_id} has ended")
        agent = self._resume(started, outcome_event_id(approval))
        async with self._recorded(agent, started):
            await self._check_alive()
            if approval.status in (Status.APPROVED, Status.EDITED):
                name, arguments = approval.tool_name, approval.granted_arguments()
                if name in self._with.remote_tools:
                    await self._calls.hand_out(name, approval.call_id, arguments)
                    return
                result = await self._calls.execute(agent, name, approval.call_id, arguments)
                if approval.status == Status.EDITED:
                    result = replace(result, content=f"{result.content}\n\n{EDITED}{json.dumps(arguments)}")
            else:
                result = ToolResult(False, _why_not(approval))
            await self._calls.answer(approval.call_id, result)
        await self._run(agent, started, continues=True)

    async def remote_result(self, call_id: str, result: str | None, error: str | None) -> None:
        """The client ran a tool: take its result, and go on.

        Raises:
            TurnFailed: no result of that call is waited for.
        """
        started, call = await self._handed_out(call_id)
        if started is None or call is None:
            raise TurnFailed("not_waiting", f"no result of call {call_id} is waited for any more")
        agent = self._resume(started, call.event_id)
        async with self._recorded(agent, started):
            await self._check_alive()
            ended = _remote_end(call, result, error)
            await self._with.bus.publish(ended)
            EventCorrelation.set_causation_id(ended.event_id)
            content = (result or "") if error is None else error
            await self._calls.answer(call_id, ToolResult(error is None, content))
        await self._run(agent, started, continues=True)

    async def waits_for_result(self, call_id: str) -> bool:
        """Whether the client has that call, and has not answered it."""
        return (await self._handed_out(call_id))[1] is not None

    async def _handed_out(self, call_id: str) -> tuple[BaseEvent | None, BaseEvent | None]:
        """The open run, and the beginning of that call in it, if the client is to answer it."""
        started = await self._records.open_run()
        if started is None or call_id not in await self._records.unanswered():
            return started, None
        call = await self._records.call_started(started.correlation_id, call_id)
        return started, call if call is not None and call.data["tool_name"] in self._with.remote_tools else None

    def _resume(self, started: BaseEvent, cause: str) -> Agent:
        """Take up an open run in this task; its agent."""
        EventCorrelation.set_correlation_id(started.correlation_id)
        EventCorrelation.set_causation_id(cause)
        return self._with.router.agents.get(started.data["agent"]) or self._with.router.get(UNIVERSAL)

    async def _check_alive(self) -> None:
        info = await self._with.sessions.get(self._session_id)
        if info is not None and not info.active:
            raise SessionEnded(self._session_id, info.end_reason or "deleted")

    # -- who -----------------------------------------------------------------------------------------------------------

    async def _choose(self, content: str, agent_type: str | None) -> Agent:
        router = self._with.router
        if not self._with.multi_agent:
            return router.get(UNIVERSAL)
        if agent_type is not None:
            await self._switch(agent_type, "requested by the user")
            return router.get(agent_type)
        context = await self._with.contexts.get(self._session_id)
        if context.current_agent != ORCHESTRATOR:
            return router.get(context.current_agent)
        return await self._route(content)

    async def _route(self, content: str) -> Agent:
        """The orchestrator's own run: ask the model who should take the message, and pass it on."""
        router, orchestrator = self._with.router, self._with.router.get(ORCHESTRATOR)
        started = await self._begin(orchestrator, content)
        async with self._recorded(orchestrator, started):
            messages = [
                {"role": "system", "content": orchestrator.prompt},
                {"role": "user", "content": router.question(content)},
            ]
            answer = await self._ask(orchestrator, messages, (), silent=True)
            routing = router.read(answer.text, content)
            await self._check_may_switch()
            await self._complete(orchestrator, started)
        await self._switch(routing.agent, routing.reasoning, routing.confidence)
        return router.get(routing.agent)

    async def _check_may_switch(self) -> None:
        """Raises: TurnFailed, while the run that wants the switch can still fail of it."""
        context = await self._with.contexts.get(self._session_id)
        if context.switch_count >= self._with.contexts.max_switches:
            raise _too_many(TooManySwitches(self._session_id, self._with.contexts.max_switches))

    async def _switch(self, to_agent: str, reason: str, confidence: str | None = None) -> None:
        before = (await self._with.contexts.get(self._session_id)).current_agent
        if before == to_agent:
            return
        try:
            context = await self._with.contexts.request_switch(self._session_id, to_agent, reason, confidence)
        except TooManySwitches as error:
            raise _too_many(error) from None
        EventCorrelation.set_causation_id(context.last_event_id)
        details = {"from_agent": before, "to_agent": to_agent, "reason": reason}
        await self._emit(Chunk("agent_switched", content=f"{before} → {to_agent}", metadata=details))

    # -- an agent's run ------------------------------------------------------------------------------------------------

    async def _begin(self, agent: Agent, content: str) -> BaseEvent:
        """Begin a run, durably: after a crash it is known."""
        started = AgentProcessingStartedEvent(
            agent_type=agent.name, message=content, session_id=self._session_id, source=SOURCE
        )
        try:
            await self._with.bus.publish_many([started])
        except asyncio.CancelledError as error:
            # Who waits for the store may leave; what is on its way there arrives all the same.
            await asyncio.shield(asyncio.ensure_future(self._fail(agent, started, error)))
            raise
        EventCorrelation.set_causation_id(started.event_id)
        return started

    async def _run(self, agent: Agent, started: BaseEvent, continues: bool = False) -> None:
        """Let an agent work until it is done, somebody must be waited for, or another takes over."""
        while True:
            async with self._recorded(agent, started):
                meaning = await self._steps(agent, continues)
                if meaning is None:
                    return
                if meaning.switch_to is not None:
                    await self._check_may_switch()
                elif meaning.final is not None:
                    await self._emit(Chunk("assistant_message", content=meaning.final, is_final=True))
                await self._complete(agent, started)
            if meaning.switch_to is None:
                return
            await self._switch(meaning.switch_to, meaning.switch_reason or f"asked for by {agent.name}")
            agent, continues = self._with.router.get(meaning.switch_to), False
            started = await self._begin(agent, "")

    async def _steps(self, agent: Agent, continues: bool) -> Meaning | None:
        """Ask the model and do what it asks for, again and again; None where somebody must be waited for."""
        tools = self._with.tools.registry.specs(self._calls.allowed(agent))
        for step in count():
            if step or continues:
                if await self._records.unanswered():
                    return None
                meaning = await self._records.meaning()
                if meaning is not None:
                    return meaning
            if step == self._with.max_steps:
                break
            answer = await self._ask(agent, await self._conversation(agent), tools)
            await self._with.sessions.add_message(self._session_id, _assistant_message(answer), agent.name)
            if not answer.tool_calls:
                return Meaning(final=answer.text)
            await self._calls.handle(agent, answer.tool_calls)
        raise TurnFailed("step_limit", f"{agent.name} was not done after {self._with.max_steps} model calls")

    async def _conversation(self, agent: Agent) -> list[dict[str, Any]]:
        info = await self._with.sessions.get(self._session_id)
        prompts = (info.system_prompt if info is not None else "", agent.prompt)
        system = {"role": "system", "content": "\n\n".join(prompt for prompt in prompts if prompt)}
        return [system, *await self._with.sessions.history(self._session_id)]

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

    # -- ends ----------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _recorded(self, agent: Agent, started: BaseEvent) -> AsyncIterator[None]:
        """Whatever ends the block early ends the run, and that is recorded, also while this task is cancelled."""
        try:
            yield
        except BaseException as error:
            if started.event_id not in self._ended:
                await asyncio.shield(asyncio.ensure_future(self._fail(agent, started, error)))
            raise

    async def _complete(self, agent: Agent, started: BaseEvent) -> None:
        """End a run well, durably; the end is the cause of what follows."""
        completed = self._completed(agent, started, success=True)
        self._ended.add(started.event_id)
        EventCorrelation.set_causation_id(completed.event_id)
        await asyncio.shield(asyncio.ensure_future(self._with.bus.publish_many([completed])))

    async def _fail(self, agent: Agent, started: BaseEvent, error: BaseException) -> None:
        """End a run badly. The calls that it leaves are answered, or the conversation could never go on."""
        error_type, message = describe(error)
        failed = AgentErrorOccurredEvent(
            agent_type=agent.name,
            error_message=redact_text(message, MAX_ERROR),
            error_type=error_type,
            session_id=self._session_id,
            source=SOURCE,
        )
        await self._with.bus.publish_many([failed, self._completed(agent, started, success=False)])
        with suppress(SessionsError):
            for call_id in await self._records.unanswered():
                await self._calls.answer(call_id, ToolResult(False, f"This call was not run to its end: {message}."))

    def _completed(self, agent: Agent, started: BaseEvent, success: bool) -> BaseEvent:
        return AgentProcessingCompletedEvent(
            agent_type=agent.name,
            duration_ms=max(0, time.time_ns() // 1000 - started.time_us) / 1000,
            success=success,
            session_id=self._session_id,
            correlation_id=started.correlation_id,
            causation_id=started.event_id,
            source=SOURCE,
        )


def describe(error: BaseException) -> tuple[str, str]:
    """error_type and message of what ended a run early; the message may be told to the client."""
    if isinstance(error, LLMError | TurnFailed):
        return error.error_type, str(error)
    if isinstance(error, SessionEnded):
        return "session_ended", str(error)
    if isinstance(error, asyncio.CancelledError):
        return "cancelled", "the client left, or the service is stopping"
    return "internal", "something went wrong inside the service"


def _too_many(error: TooManySwitches) -> TurnFailed:
    return TurnFailed("too_many_switches", str(error))


def _why_not(approval: Approval) -> str:
    if approval.status == Status.EXPIRED:
        return "Nobody approved this call in time, so it was not run."
    said = f" They say: {approval.feedback}" if approval.feedback else ""
    return f"The user did not approve this call, so it was not run.{said}"


def _remote_end(call: BaseEvent, result: str | None, error: str | None) -> BaseEvent:
    """How a call ended that the client ran."""
    duration_ms = max(0, time.time_ns() // 1000 - call.time_us) / 1000
    common: dict[str, Any] = {
        "tool_name": call.data["tool_name"],
        "call_id": call.data["call_id"],
        "session_id": call.session_id,
        "correlation_id": call.correlation_id,
        "causation_id": call.event_id,
        "duration_ms": duration_ms,
        "source": SOURCE,
    }
    if error is None:
        return ToolExecutionCompletedEvent(result_length=len(result or ""), **common)
    return ToolExecutionFailedEvent(error_message=redact_text(error, MAX_ERROR), error_type="remote_error", **common)


def _assistant_message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.tool_calls:
        message["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
    return message
