"""The agents: who they are, what they may do, and which of them takes a message. They know no telemetry."""

from agent_runtime.agents.definitions import AGENTS, ORCHESTRATOR, UNIVERSAL, Agent
from agent_runtime.agents.router import AgentRouter, Routing

__all__ = ["AGENTS", "ORCHESTRATOR", "UNIVERSAL", "Agent", "AgentRouter", "Routing"]
