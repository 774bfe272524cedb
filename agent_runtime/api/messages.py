"""Talking to the agents: one route that takes messages, tool results, switches and decisions, and streams what
follows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request
from opentelemetry.trace import get_current_span
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from agent_runtime.agents.definitions import AGENTS
from agent_runtime.api.answers import Refusal
from agent_runtime.api.approvals import refused
from agent_runtime.api.auth import Role, principal
from agent_runtime.events.fields import name_problem
from agent_runtime.hitl.errors import HITLError
from agent_runtime.orchestrator import MultiAgentOrchestrator, NotWaiting, SessionBusy, Stream

MAX_CONTENT = 1_000_000


def _name(value: str) -> str:
    if (problem := name_problem(value)) is not None:
        raise ValueError(problem)
    return value


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, Field(max_length=MAX_CONTENT)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class UserMessage(_Message):
    """What a user says; ``agent_type`` names who should take it, else it is routed."""

    type: Literal["user_message"]
    content: Annotated[str, Field(min_length=1, max_length=MAX_CONTENT)]
    agent_type: Name | None = None


class ToolResult(_Message):
    """What came of a call that the client ran: a result, or an error."""

    type: Literal["tool_result"]
    call_id: Name
    tool_name: Name | None = None
    result: Any = None
    error: Text | None = None


class SwitchAgent(_Message):
    """Pass the session on."""

    type: Literal["switch_agent"]
    agent_type: Name
    reason: Text = ""


class HITLDecision(_Message):
    """A person's decision on a call."""

    type: Literal["hitl_decision"]
    call_id: Name
    decision: Name
    modified_arguments: dict[str, Any] | None = None
    feedback: Text | None = None


class StreamRequest(_Message):
    """A message to a session."""

    session_id: Name
    message: Annotated[UserMessage | ToolResult | SwitchAgent | HITLDecision, Field(discriminator="type")]


def messages_router(orchestrator: MultiAgentOrchestrator) -> APIRouter:
    """The route.

    Args:
        orchestrator: takes the messages.
    """
    router = APIRouter(tags=["agents"])

    @router.post("/agent/message/stream")
    async def stream_message(body: StreamRequest, request: Request) -> Response:
        """Send a message; what follows comes as Server-Sent Events: `message`, `error`, and `done` at the end."""
        _may(request, body)
        try:
            return EventStream(await _begin(orchestrator, body, request))
        except SessionBusy as error:
            raise Refusal(409, str(error)) from None
        except NotWaiting as error:
            raise Refusal(404, str(error)) from None
        except HITLError as error:
            return refused(error)

    return router


def _may(request: Request, body: StreamRequest) -> None:
    """An approver's key may decide here, and nothing else; everything else is the admin's."""
    roles = request.scope.get("roles")
    if roles is not None and Role.ADMIN not in roles and not isinstance(body.message, HITLDecision):
        raise Refusal(403, "this needs a key of the role admin")


async def _begin(orchestrator: MultiAgentOrchestrator, body: StreamRequest, request: Request) -> Stream:
    message, session_id = body.message, body.session_id
    if isinstance(message, UserMessage | SwitchAgent) and message.agent_type not in (None, *AGENTS):
        raise Refusal(400, f"message.agent_type: there is no agent {message.agent_type!r}, only {', '.join(AGENTS)}")
    if isinstance(message, UserMessage):
        return await orchestrator.user_message(session_id, message.content, message.agent_type, _trace())
    if isinstance(message, SwitchAgent):
        return await orchestrator.switch(session_id, message.agent_type, message.reason, _trace())
    if isinstance(message, ToolResult):
        if (message.error is None) == (message.result is None):
            raise Refusal(400, "message: a tool_result has either a result or an error")
        result = message.result if isinstance(message.result, str | None) else orjson.dumps(message.result).decode()
        return await orchestrator.tool_result(session_id, message.call_id, result, message.error)
    return await orchestrator.decision(
        session_id,
        message.call_id,
        message.decision,
        decided_by=principal(request.scope),
        modified_arguments=message.modified_arguments,
        feedback=message.feedback,
    )


def _trace() -> str | None:
    """The request's W3C trace id, if it has one: the turn becomes part of that trace."""
    context = get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


class EventStream(StreamingResponse):
    """Chunks as Server-Sent Events; whoever leaves before the end cancels the turn.

    Args:
        chunks: of the turn.
    """

    def __init__(self, chunks: Stream) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_events(chunks), media_type="text/event-stream", headers=headers)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._chunks.aclose()


async def _events(chunks: Stream) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        name = chunk.type if chunk.type in ("error", "done") else "message"
        data = {"status": "completed"} if chunk.type == "done" else chunk.to_dict()
        yield b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
