"""What an orchestrator works with, wired by main."""

from __future__ import annotations

from dataclasses import dataclass

from agent_runtime.agents import AgentRouter
from agent_runtime.events.event_bus import EventBus
from agent_runtime.hitl.manager import HITLManager
from agent_runtime.llm import LLMStreamService
from agent_runtime.sessions.context import AgentContextManager
from agent_runtime.sessions.manager import SessionManager
from agent_runtime.tools import ToolExecutor


@dataclass(frozen=True, slots=True)
class Services:
    """The parts.

    Attributes:
        model: name of the model that all agents use.
        remote_tools: names of tools that the client runs; their results come back as ``tool_result``.
        multi_agent: route messages among specialists; else one agent does everything.
        max_steps: model calls that one agent's run may take.
    """

    bus: EventBus
    sessions: SessionManager
    contexts: AgentContextManager
    llm: LLMStreamService
    tools: ToolExecutor
    hitl: HITLManager
    router: AgentRouter
    model: str
    remote_tools: frozenset[str] = frozenset()
    multi_agent: bool = True
    max_steps: int = 50
