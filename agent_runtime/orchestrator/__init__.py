"""A message → agents → reply.

chunks.py        what a client is sent
services.py      what an orchestrator works with
turn.py          one turn: routing, agents' runs, tool calls, and where it has to wait
orchestrator.py  MultiAgentOrchestrator: streams turns, continues them after decisions and restarts, one a session at
a time
"""

from agent_runtime.orchestrator.chunks import Chunk
from agent_runtime.orchestrator.orchestrator import MultiAgentOrchestrator, SessionBusy
from agent_runtime.orchestrator.services import Services

__all__ = ["Chunk", "MultiAgentOrchestrator", "Services", "SessionBusy"]
