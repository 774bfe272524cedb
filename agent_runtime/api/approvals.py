"""What waits for a person, and the person's decision."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from agent_runtime.api.answers import Json, Refusal
from agent_runtime.api.auth import principal
from agent_runtime.hitl.errors import (
    AlreadyDecided,
    AmbiguousCall,
    ApprovalExpired,
    ArgumentsMismatch,
    HITLError,
    InvalidDecision,
    UnknownApproval,
)
from agent_runtime.hitl.manager import HITLManager
from agent_runtime.hitl.models import Approval
from agent_runtime.sessions.errors import DatabaseUnavailable

_STATUS_OF: dict[type[HITLError], int] = {
    InvalidDecision: 400,
    UnknownApproval: 404,
    AmbiguousCall: 409,
    ArgumentsMismatch: 409,
    AlreadyDecided: 409,
    ApprovalExpired: 410,
}


class DecisionBody(BaseModel):
    """A decision. A key that is not known is refused: a misspelt one must not turn an edit into an approval."""

    model_config = ConfigDict(extra="forbid", strict=True)

    decision: str = Field(description="`approve`, `edit`, `reject` or `feedback`, in any case.")
    modified_arguments: dict[str, Any] | None = Field(None, description="With `edit`: all the arguments, edited.")
    feedback: str | None = Field(None, description="For the model; `feedback` is a rejection that needs it.")
    session_id: str | None = Field(None, description="Of the call, where sessions share its id.")
    arguments_hash: str | None = Field(None, description="Of the arguments that were seen.")


def approvals_router(manager: HITLManager) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["approvals"])

    @router.get("/approvals")
    async def get_approvals() -> Response:
        """Everything that waits for a decision, oldest first."""
        try:
            rows = [approval_row(approval) for approval in await manager.pending()]
        except DatabaseUnavailable:
            raise _UNAVAILABLE from None
        return Json({"approvals": rows, "count": len(rows)})

    @router.post("/approvals/{call_id:path}/decision")
    async def post_decision(call_id: str, body: DecisionBody, request: Request) -> Response:
        """Decide about a call, by its call id or by the approval's own id. The first decision is taken, no other."""
        try:
            approval = await manager.decide(call_id, decided_by=principal(request.scope), **body.model_dump())
        except HITLError as error:
            return refused(error)
        except DatabaseUnavailable:
            raise _UNAVAILABLE from None
        return Json(approval_row(approval))

    return router


_UNAVAILABLE = Refusal(503, "the database does not answer; look whether the decision was taken, then try again", 1)


def refused(error: HITLError) -> Response:
    """The answer to a decision that was not taken; to one that came second, with who was first, and when."""
    answer: dict[str, Any] = {"error": str(error)}
    if isinstance(error, AlreadyDecided):
        answer |= {"status": error.status, "decided_by": error.decided_by, "decided_at": _text(error.decided_at)}
    elif isinstance(error, ApprovalExpired):
        answer |= {"status": "expired", "expired_at": _text(error.expired_at)}
    return Json(answer, _STATUS_OF.get(type(error), 409))


def approval_row(approval: Approval) -> dict[str, Any]:
    """An approval as JSON, with the arguments as the model wrote them: they are what the person decides about."""
    return {
        "id": approval.id,
        "call_id": approval.call_id,
        "session_id": approval.session_id,
        "agent": approval.agent,
        "tool_name": approval.tool_name,
        "arguments": approval.arguments,
        "arguments_hash": approval.arguments_hash,
        "reason": approval.reason,
        "correlation_id": approval.correlation_id,
        "requested_at": _text(approval.requested_at),
        "expires_at": _text(approval.expires_at),
        "status": approval.status,
        "decided_at": _text(approval.decided_at),
        "decided_by": approval.decided_by,
        "modified_arguments": approval.modified_arguments,
        "feedback": approval.feedback,
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
