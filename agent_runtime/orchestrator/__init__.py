"""A message → agents → reply.

chunks.py        what a client is sent
stream.py        how it gets from a turn to whoever reads it
services.py      what an orchestrator works with
records.py       what the session and the event store say: the open run, the calls without a result
calls.py         the tool calls of an answer
turn.py          one turn: routing, agents' runs, and where it has to wait
recovery.py      what a crash interrupted
orchestrator.py  MultiAgentOrchestrator: streams turns, one a session at a time, and continues those that waited
"""

from agent_runtime.orchestrator.chunks import Chunk
from agent_runtime.orchestrator.orchestrator import MultiAgentOrchestrator, NotWaiting, SessionBusy
from agent_runtime.orchestrator.services import Services
from agent_runtime.orchestrator.stream import Stream

__all__ = ["Chunk", "MultiAgentOrchestrator", "NotWaiting", "Services", "SessionBusy", "Stream"]
