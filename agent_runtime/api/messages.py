"""Talking to the agents: one route that takes messages, tool results, switches and decisions, and streams what
follows."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request
from opentelemetry.trace import get_current_span
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from agent_runtime.api.answers import Refusal
from agent_runtime.api.approvals import refused
from agent_runtime.api.auth import Role, principal
from agent_runtime.hitl.errors import HITLError
from agent_runtime.orchestrator import Chunk, MultiAgentOrchestrator, SessionBusy

MAX_CONTENT = 1_000_000
Name = Annotated[str, Field(min_length=1, max_length=256)]
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
            chunks = await _begin(orchestrator, body, request)
        except SessionBusy as error:
            raise Refusal(409, str(error)) from None
        except HITLError as error:
            return refused(error)
        except LookupError as error:
            missing = body.message.type in ("user_message", "switch_agent") and "agent" in str(error)
            raise Refusal(400 if missing else 404, str(error.args[0] if error.args else error)) from None
        return StreamingResponse(
            _events(chunks),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return router


def _may(request: Request, body: StreamRequest) -> None:
    """An approver's key may decide here, and nothing else; everything else is the admin's."""
    roles = request.scope.get("roles")
    if roles is not None and Role.ADMIN not in roles and not isinstance(body.message, HITLDecision):
        raise Refusal(403, "this needs a key of the role admin")


async def _begin(
    orchestrator: MultiAgentOrchestrator, body: StreamRequest, request: Request
) -> AsyncGenerator[Chunk, None]:
    message, session_id = body.message, body.session_id
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


async def _events(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            name = chunk.type if chunk.type in ("error", "done") else "message"
            data = {"status": "completed"} if chunk.type == "done" else chunk.to_dict()
            yield b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
