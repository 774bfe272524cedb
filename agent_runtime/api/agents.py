"""The agents: who there are, which of them has a session, and passing a session on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from agent_runtime.agents.definitions import AGENTS, Agent
from agent_runtime.api.answers import Json, Refusal
from agent_runtime.api.sessions import moment
from agent_runtime.sessions.context import AgentContext, AgentContextManager

# Passes a session (its id) on to an agent, for a reason: the context after it.
Switch = Callable[[str, str, str], Awaitable[AgentContext]]


class SwitchBody(BaseModel):
    """Which agent is to have the session, and why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    agent_type: str = Field(description="The agent's name.")
    reason: str = Field("", description="Kept with the switch.")


def agents_router(
    contexts: AgentContextManager, agents: Mapping[str, Agent] = AGENTS, switch: Switch | None = None
) -> APIRouter:
    """The routes.

    Args:
        contexts: which agent has which session.
        agents: the agents by name.
        switch: passes a session on; the contexts' own way by default.
    """
    router = APIRouter(prefix="/agents", tags=["agents"])
    pass_on = switch or contexts.request_switch

    @router.get("")
    async def get_agents() -> Response:
        """Every agent, the tools it may call (null: all), and the files it may write (null: any; empty: none)."""
        rows = [agent_row(agent) for agent in agents.values()]
        return Json({"agents": rows, "count": len(rows)})

    @router.get("/{session_id}/current")
    async def get_current(session_id: str) -> Response:
        """Which agent has a session, and how it came to that."""
        return Json(context_row(await contexts.get(session_id)))

    @router.post("/{session_id}/switch")
    async def post_switch(session_id: str, body: SwitchBody) -> Response:
        """Pass a session on. To the agent that has it already nothing happens."""
        if body.agent_type not in agents:
            raise Refusal(400, f"there is no agent {body.agent_type!r}; there are {', '.join(agents)}")
        before = await contexts.get(session_id)
        after = await pass_on(session_id, body.agent_type, body.reason)
        return Json(
            {
                **context_row(after),
                "from_agent": before.current_agent,
                "to_agent": after.current_agent,
                "switched": after.switch_count > before.switch_count,
            }
        )

    return router


def agent_row(agent: Agent) -> dict[str, Any]:
    """An agent as JSON, without its prompt."""
    return {
        "name": agent.name,
        "tools": None if agent.tools is None else list(agent.tools),
        "file_rule": agent.file_rule,
    }


def context_row(context: AgentContext) -> dict[str, Any]:
    """A session's context as JSON."""
    return {
        "session_id": context.session_id,
        "current_agent": context.current_agent,
        "switch_count": context.switch_count,
        "agent_history": [asdict(switch) for switch in context.switches],
        "updated_at": moment(context.updated_at),
    }
