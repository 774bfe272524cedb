"""Which agent takes a message: the model says so in JSON, and keywords decide where it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from agent_runtime.agents.definitions import AGENTS, SPECIALISTS, Agent
from agent_runtime.events.agent_events import AgentRegisteredEvent
from agent_runtime.events.event_bus import EventBus

FALLBACK = "ask"
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_CONFIDENCES = ("high", "medium", "low")


class Routing(NamedTuple):
    """A decision: the agent, how sure (high, medium, low), and why."""

    agent: str
    confidence: str
    reasoning: str


class AgentRouter:
    """Knows the agents and routes messages to the specialists among them.

    Args:
        agents: the agents by name.
    """

    def __init__(self, agents: Mapping[str, Agent] = AGENTS) -> None:
        self.agents = agents

    async def register(self, bus: EventBus) -> None:
        """Publish that each agent is known."""
        for name in self.agents:
            await bus.publish(AgentRegisteredEvent(agent_type=name, source="agent_router"))

    def get(self, name: str) -> Agent:
        """The agent of that name.

        Raises:
            LookupError: there is none; the message names those there are.
        """
        agent = self.agents.get(name)
        if agent is None:
            raise LookupError(f"there is no agent {name[:80]!r}, only {', '.join(self.agents)}")
        return agent

    def question(self, message: str) -> str:
        """What the model is asked in order to route ``message``."""
        return (
            f"Choose who should take the message below: {', '.join(SPECIALISTS)}. Answer with one JSON object and "
            f"nothing "
            'else: {"agent": "...", "confidence": "high|medium|low", "reasoning": "one sentence"}.\n\n'
            f"Message:\n{message}"
        )

    def read(self, answer: str, message: str) -> Routing:
        """The decision in a model's ``answer``; one that can't be read is replaced by the keywords of ``message``."""
        found = _OBJECT.search(answer)
        if found is not None:
            try:
                decision = json.loads(found.group())
            except ValueError:
                decision = None
            if isinstance(decision, dict) and decision.get("agent") in SPECIALISTS:
                confidence = decision.get("confidence")
                reasoning = decision.get("reasoning")
                return Routing(
                    decision["agent"],
                    confidence if confidence in _CONFIDENCES else "medium",
                    reasoning[:500] if isinstance(reasoning, str) else "",
                )
        return self.by_keywords(message)

    def by_keywords(self, message: str) -> Routing:
        """The specialist whose keywords stand in ``message`` most often; the one who explains where none do."""
        words = re.findall(r"[\w-]+|\?", message.lower())
        counts = {name: sum(words.count(word) for word in self.agents[name].keywords) for name in SPECIALISTS}
        best = max(SPECIALISTS, key=lambda name: counts[name])
        if not counts[best]:
            best = FALLBACK
        return Routing(best, "low", "chosen by keywords: the model gave no usable decision")
