"""After a crash: which sessions have an open run, what of it can still go on, and how the rest is ended.

What a crash cut has ended when it was last heard of: its ends are dated then, so that no time while nothing ran counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from agent_runtime.events.agent_events import AgentErrorOccurredEvent, AgentProcessingCompletedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.event_types import EventType
from agent_runtime.events.llm_events import LLMRequestFailedEvent
from agent_runtime.events.store.base import EventStore
from agent_runtime.events.tool_events import ToolExecutionFailedEvent
from agent_runtime.hitl.models import Approval
from agent_runtime.orchestrator.records import ERROR, RUN, Records, open_runs
from agent_runtime.orchestrator.services import Services

SOURCE = "orchestrator"
LOOKED_BACK = 20_000
ERROR_TYPE = "interrupted"
WHY = "the service stopped in the middle of this"
_ENDS = {
    EventType.LLM_REQUEST_STARTED: (EventType.LLM_REQUEST_COMPLETED, EventType.LLM_REQUEST_FAILED),
    EventType.TOOL_EXECUTION_STARTED: (EventType.TOOL_EXECUTION_COMPLETED, EventType.TOOL_EXECUTION_FAILED),
}


async def sessions_with_open_runs(store: EventStore) -> list[str]:
    """Sessions whose last agent's run has no end, as far as the latest runs tell."""
    events = await asyncio.to_thread(store.query, event_types=RUN, limit=LOOKED_BACK, newest=True)
    return list(dict.fromkeys(event.session_id for event in open_runs(events) if event.session_id is not None))


class Recovery:
    """Takes up the open run of a session.

    Args:
        services: what the orchestrator works with.
        session_id: the session; nothing runs in it.
    """

    def __init__(self, services: Services, session_id: str) -> None:
        self._with = services
        self._session_id = session_id
        self._records = Records(services, session_id)

    async def take_up(self) -> list[Approval]:
        """End what was cut. The approvals after whose decision the run goes on; none also if there is no open run."""
        # In a task of its own: the caller's current turn stays what it is.
        return await asyncio.create_task(self._take_up())

    async def _take_up(self) -> list[Approval]:
        started = await self._records.open_run()
        if started is None:
            return []
        events = await self._records.turn(started.correlation_id)
        handed_out = self._handed_out(events)
        approvals, lost = [], []
        unanswered = await self._records.unanswered()
        for call_id in unanswered:
            approval = await self._with.hitl.find(call_id, self._session_id)
            asked_here = approval is not None and approval.correlation_id == started.correlation_id
            if asked_here and not _was_started(events, call_id):
                approvals.append(approval)
            elif call_id not in handed_out:
                lost.append(call_id)
        await self._end(started, events, handed_out, waits=len(unanswered) > len(lost))
        for call_id in lost:
            message = {"role": "tool", "tool_call_id": call_id, "content": f"{ERROR}{WHY}."}
            await self._with.sessions.add_message(self._session_id, message)
        await self._with.sessions.save_now(self._session_id)
        return [approval for approval in approvals if approval is not None]

    def _handed_out(self, events: Sequence[BaseEvent]) -> set[str]:
        """The calls that the client has."""
        begun = (event for event in events if event.event_type == EventType.TOOL_EXECUTION_STARTED)
        return {event.data["call_id"] for event in begun if event.data["tool_name"] in self._with.remote_tools}

    async def _end(self, started: BaseEvent, events: Sequence[BaseEvent], handed_out: set[str], waits: bool) -> None:
        """Publish the ends of what was cut, and if nothing is waited for, of the run."""
        last = events[-1]
        EventCorrelation.set_correlation_id(started.correlation_id)
        EventCorrelation.set_causation_id(last.event_id)
        ended = {event.causation_id for event in events if any(event.event_type in ends for ends in _ENDS.values())}
        cut = [event for event in events if event.event_type in _ENDS and event.event_id not in ended]
        ends = [_end_of(event, last.timestamp) for event in cut if event.data.get("call_id") not in handed_out]
        if not waits:
            agent = started.data["agent"]
            common: dict[str, Any] = {
                "agent_type": agent,
                "session_id": self._session_id,
                "timestamp": last.timestamp,
                "source": SOURCE,
            }
            cause = ends[-1].event_id if ends else last.event_id
            ends.append(AgentErrorOccurredEvent(error_message=WHY, error_type=ERROR_TYPE, causation_id=cause, **common))
            duration_ms = max(0, last.time_us - started.time_us) / 1000
            ends.append(
                AgentProcessingCompletedEvent(
                    duration_ms=duration_ms, success=False, causation_id=started.event_id, **common
                )
            )
        if ends:
            await self._with.bus.publish_many(ends)


def _was_started(events: Sequence[BaseEvent], call_id: str) -> bool:
    begun = (event for event in events if event.event_type == EventType.TOOL_EXECUTION_STARTED)
    return any(event.data["call_id"] == call_id for event in begun)


def _end_of(begun: BaseEvent, timestamp: datetime) -> BaseEvent:
    """How a model's or a tool's call ended that was cut."""
    data = begun.data
    common: dict[str, Any] = {
        "error_type": ERROR_TYPE,
        "duration_ms": max(0.0, (timestamp - begun.timestamp).total_seconds() * 1000),
        "session_id": begun.session_id,
        "correlation_id": begun.correlation_id,
        "causation_id": begun.event_id,
        "timestamp": timestamp,
        "source": SOURCE,
    }
    if begun.event_type == EventType.LLM_REQUEST_STARTED:
        kept: dict[str, Any] = {key: data.get(key) for key in ("model", "request_id", "agent")}
        return LLMRequestFailedEvent(error=WHY, **kept, **common)
    return ToolExecutionFailedEvent(tool_name=data["tool_name"], call_id=data["call_id"], error_message=WHY, **common)
