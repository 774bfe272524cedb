"""What the records say about a session: the conversation is in the session, the open run in the event store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_types import EventType
from agent_runtime.orchestrator.services import Services

RUN = (EventType.AGENT_PROCESSING_STARTED, EventType.AGENT_PROCESSING_COMPLETED)
MAX_TURN_EVENTS = 10_000
ERROR = "Error: "


class Meaning(NamedTuple):
    """What the calls of an answer mean for the turn: another agent, or a last word."""

    final: str | None = None
    switch_to: str | None = None
    switch_reason: str = ""


class Records:
    """Reads them; keeps nothing.

    Args:
        services: what the orchestrator works with.
        session_id: an existing session.
    """

    def __init__(self, services: Services, session_id: str) -> None:
        self._with = services
        self._session_id = session_id

    async def unanswered(self) -> list[str]:
        """The calls of the last answer that have no result yet, in order."""
        calls, answers = last_calls(await self._with.sessions.history(self._session_id))
        return [call["id"] for call in calls if call["id"] not in answers]

    async def meaning(self) -> Meaning | None:
        """What the calls of the last answer mean, all of them answered; None if they mean nothing."""
        return meaning_of(*last_calls(await self._with.sessions.history(self._session_id)))

    async def open_run(self) -> BaseEvent | None:
        """The beginning of the session's last run, if that has no end."""
        runs = await self._query(session_id=self._session_id, event_types=RUN, limit=50, newest=True)
        opened = open_runs(runs)
        return opened[-1] if opened else None

    async def turn(self, correlation_id: str | None) -> list[BaseEvent]:
        """The events of a turn."""
        return await self._query(correlation_id=correlation_id, limit=MAX_TURN_EVENTS)

    async def call_started(self, correlation_id: str | None, call_id: str) -> BaseEvent | None:
        """The beginning of a call in a turn, if it had one."""
        events = await self.turn(correlation_id)
        started = (event for event in events if event.event_type == EventType.TOOL_EXECUTION_STARTED)
        return next((event for event in started if event.data["call_id"] == call_id), None)

    async def _query(self, **filters: Any) -> list[BaseEvent]:
        return await asyncio.to_thread(self._with.bus.store.query, **filters)


def open_runs(events: Sequence[BaseEvent]) -> list[BaseEvent]:
    """The beginnings among ``events`` whose end is not, in order."""
    ended = {event.causation_id for event in events if event.event_type == EventType.AGENT_PROCESSING_COMPLETED}
    begun = (event for event in events if event.event_type == EventType.AGENT_PROCESSING_STARTED)
    return [event for event in begun if event.event_id not in ended]


def last_calls(history: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The calls of the last answer, and the results so far, by call."""
    answers: dict[str, str] = {}
    for message in reversed(history):
        if message["role"] != "tool":
            return list(message.get("tool_calls") or ()), answers
        answers[message["tool_call_id"]] = message["content"]
    return [], answers


def meaning_of(calls: Sequence[dict[str, Any]], answers: dict[str, str]) -> Meaning | None:
    """See ``Records.meaning``. A call that failed means nothing; of several the last one holds."""
    meaning = None
    for call in calls:
        name, answer = call["function"]["name"], answers[call["id"]]
        key = {"switch_mode": "mode", "attempt_completion": "result", "ask_followup_question": "question"}.get(name)
        arguments = None if key is None else parsed(call["function"]["arguments"])
        if key is None or arguments is None:
            continue
        said = arguments.get(key)
        if not isinstance(said, str) or (answer.startswith(ERROR) and answer != said):
            continue
        if name == "switch_mode":
            meaning = Meaning(switch_to=said, switch_reason=arguments.get("reason") or "")
        else:
            meaning = Meaning(final=answer)
    return meaning


def parsed(arguments: str) -> dict[str, Any] | None:
    """A model's arguments; None if they are no JSON object. No arguments at all are an empty object."""
    if not arguments.strip():
        return {}
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
