"""Sessions: begin, look at, end; what was said in them, and what waits for a person in them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from agent_runtime.api.answers import Json
from agent_runtime.sessions.errors import UnknownSession
from agent_runtime.sessions.manager import SessionManager
from agent_runtime.sessions.service import CreateSessionCommand, CreateSessionHandler
from agent_runtime.sessions.session import Message, Session, SessionInfo

MAX_OFFSET = 2**31

Limit = Annotated[int, Query(ge=1, le=1_000)]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET)]

# What waits for a decision in a session, oldest first, as JSON.
Pending = Callable[[str], Awaitable[Sequence[dict[str, Any]]]]


class SessionBody(BaseModel):
    """A session that is to begin. Nothing in it is required."""

    model_config = ConfigDict(extra="forbid", strict=True)

    session_id: str | None = Field(default=None, description="Minted by default.")
    system_prompt: str = Field(default="", description="Goes before the agents' own.")
    details: dict[str, Any] = Field(default_factory=dict, description="Kept with it, and given back.")


def sessions_router(sessions: SessionManager, create: CreateSessionHandler, pending: Pending) -> APIRouter:
    """The routes.

    Args:
        sessions: what they show.
        create: begins a session.
        pending: what waits for a decision in a session.
    """
    router = APIRouter(prefix="/sessions", tags=["sessions"])

    async def known(session_id: str) -> SessionInfo:
        info = await sessions.get(session_id)
        if info is None:
            raise UnknownSession(session_id)
        return info

    @router.post("", status_code=201)
    async def post_session(body: SessionBody | None = None) -> Response:
        """Begin a session. One of that id, alive or ended, is a 409."""
        body = body or SessionBody()
        session_id = body.session_id if body.session_id is not None else Session.new_id()
        session = await create.handle(
            CreateSessionCommand(session_id, body.system_prompt, created_by="api", details=body.details)
        )
        return Json(session_row(session.info), 201)

    @router.get("")
    async def get_sessions(limit: Limit = 100, offset: Offset = 0, active_only: bool = True) -> Response:
        """A page of sessions, the one with the latest activity first."""
        page = await sessions.list(limit, offset, active_only)
        rows = [session_row(info) for info in page]
        return Json({"sessions": rows, "count": len(rows), "limit": limit, "offset": offset})

    @router.get("/{session_id}")
    async def get_session(session_id: str) -> Response:
        """One session, an ended one too."""
        return Json(session_row(await known(session_id)))

    @router.get("/{session_id}/history")
    async def get_history(session_id: str) -> Response:
        """What was said, in order, in the OpenAI chat format, with the agent, the turn and the time of each message."""
        rows = [message_row(message) for message in await sessions.messages(session_id)]
        return Json({"session_id": session_id, "messages": rows, "count": len(rows)})

    @router.get("/{session_id}/pending-approvals")
    async def get_pending_approvals(session_id: str) -> Response:
        """The calls of this session that wait for a person, oldest first."""
        await known(session_id)
        rows = list(await pending(session_id))
        return Json({"session_id": session_id, "pending_approvals": rows, "count": len(rows)})

    @router.delete("/{session_id}")
    async def delete_session(session_id: str) -> Response:
        """End a session. What was said in it stays readable. Ending it again changes nothing."""
        await sessions.delete(session_id)
        return Json({"session_id": session_id, "status": "deleted"})

    return router


def session_row(info: SessionInfo) -> dict[str, Any]:
    """A session as JSON."""
    return {
        "session_id": info.id,
        "active": info.active,
        "created_by": info.created_by,
        "system_prompt": info.system_prompt,
        "details": info.details,
        "message_count": info.message_count,
        "created_at": moment(info.created_at),
        "last_activity_at": moment(info.last_activity_at),
        "ended_at": moment(info.ended_at),
        "end_reason": info.end_reason,
    }


def message_row(message: Message) -> dict[str, Any]:
    """A message as JSON: the chat format's own keys, and ours beside them."""
    return {
        **message.message,
        "message_id": message.message_id,
        "agent": message.agent,
        "correlation_id": message.correlation_id,
        "created_at": moment(message.created_at),
    }


def moment(when: datetime | None) -> str | None:
    """RFC 3339 in UTC, to the microsecond."""
    return None if when is None else when.isoformat(timespec="microseconds").replace("+00:00", "Z")
