"""Ends of steps that can't be counted without their beginning, or without the error that explains them.

An end that says everything is counted at once. One that lacks its provider or its duration waits for its beginning,
and an agent's
failed run for its error, both for the grace at most: so the order in which the two arrive makes no difference.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_types import EventType as T
from agent_runtime.events.parsing import parse_event
from telemetry.spans import AGENT, MODEL, TOOL, SpanRow
from telemetry.steps import CLOSES, OPENS, step_key

MAX_KEPT = 20_000

_ROWS: dict[str, tuple[SpanRow, int]] = {
    kind: (row, role)
    for row in (AGENT, MODEL, TOOL)
    for role, kinds in ((OPENS, row.opens), (CLOSES, row.closes))
    for kind in kinds
}

# (scope, operation, key): the scope is the correlation id, or the session where there is none.
Name = tuple[str, str, str]
# (opening event's id, its time in microseconds, the provider it names)
Begun = tuple[str, int, str | None]


class Joins:
    """Beginnings under way, ends that wait for theirs, and the agents' last errors.

    Args:
        grace_ns: how long an end waits, in nanoseconds of recording time.
        play: counts an end, given its data with what was missing filled in.
        agent_failed: counts an agent's failed run, given the type of its error.
        negative: counts a duration below zero.
    """

    types: frozenset[str] = frozenset(_ROWS) | {T.AGENT_ERROR_OCCURRED}

    def __init__(
        self,
        grace_ns: int,
        play: Callable[[BaseEvent, dict[str, Any]], None],
        agent_failed: Callable[[BaseEvent, str], None],
        negative: Callable[[], None],
    ) -> None:
        self._grace_ns = grace_ns
        self._play = play
        self._agent_failed = agent_failed
        self._negative = negative
        self.opening_id = ""
        self._begun: OrderedDict[Name, list[Begun]] = OrderedDict()
        self._errors: OrderedDict[tuple[str, str], tuple[int, str, str]] = OrderedDict()
        self._waiting: dict[Name, list[BaseEvent]] = {}
        self._alarms: list[tuple[int, int, Name]] = []
        self._failed: list[tuple[int, int, BaseEvent, str]] = []

    # After ``take``, and while ``play`` and ``agent_failed`` run: the event that opened the step; empty if unknown.
    opening_id: str

    def take(self, event: BaseEvent) -> dict[str, Any] | None:
        """Take an event of one of ``types``; the data to count it by, or None if it waits."""
        data = event.data
        kind = event.event_type
        if kind == T.AGENT_ERROR_OCCURRED:
            self._note_error(event)
            return data
        row, role = _ROWS[kind]
        name = (event.correlation_id or event.session_id or "", row.operation, step_key(row, role, event))
        if role == OPENS:
            self._begin(name, event)
            return data
        began = self._match(name, event)
        self.opening_id = began[0] if began else ""
        if row is AGENT:
            if data.get("success") is False:
                heapq.heappush(
                    self._failed, (event.recorded_ns + self._grace_ns, event.position, event, self.opening_id)
                )
            return data
        if data.get("duration_ms") is not None and (row is TOOL or data.get("provider") is not None):
            return data
        if began is not None:
            return self._completed(event, began)
        self._waiting.setdefault(name, []).append(event)
        heapq.heappush(self._alarms, (event.recorded_ns + self._grace_ns, event.position, name))
        return None

    def _match(self, name: Name, end: BaseEvent) -> Begun | None:
        """Take out the beginning of ``end``: its cause, else the first of that name."""
        begun = self._begun.get(name)
        if begun is None:
            return None
        index = 0
        if len(begun) > 1:
            index = next((i for i, began in enumerate(begun) if began[0] == end.causation_id), 0)
        found = begun.pop(index)
        if not begun:
            del self._begun[name]
        return found

    def due(self, now_ns: int) -> None:
        """Count what has waited long enough as it is."""
        alarms = self._alarms
        while alarms and alarms[0][0] < now_ns:
            name = heapq.heappop(alarms)[2]
            self.opening_id = ""
            for event in self._waiting.pop(name, ()):
                self._play(event, self._completed(event, None))
        failed = self._failed
        while failed and failed[0][0] < now_ns:
            _, _, event, self.opening_id = heapq.heappop(failed)
            scope = event.correlation_id or event.session_id or ""
            error = self._errors.get((scope, event.data["agent"]))
            self._agent_failed(event, error[2] if error else "error")

    def _begin(self, name: Name, event: BaseEvent) -> None:
        began = (event.event_id, event.time_us, event.data.get("provider"))
        waiting = self._waiting.get(name)
        if waiting:
            end = waiting.pop(0)
            if not waiting:
                del self._waiting[name]
            self.opening_id = event.event_id
            self._play(end, self._completed(end, began))
            return
        self._begun.setdefault(name, []).append(began)
        if len(self._begun) > MAX_KEPT:
            self._begun.popitem(last=False)

    def _completed(self, end: BaseEvent, began: Begun | None) -> dict[str, Any]:
        """The end's data, with provider and duration from its beginning as far as that is known."""
        data = dict(end.data)
        if data.get("provider") is None and began is not None:
            data["provider"] = began[2]
        if data.get("duration_ms") is None:
            micros = 0 if began is None else end.time_us - began[1]
            if micros < 0:
                self._negative()
            data["duration_ms"] = max(0, micros) / 1000
        return data

    def _note_error(self, event: BaseEvent) -> None:
        name = (event.correlation_id or event.session_id or "", event.data["agent"])
        error = (event.time_us, event.event_id, event.data["error_type"])
        if error > self._errors.get(name, (0, "", "")):
            self._errors[name] = error
        if len(self._errors) > MAX_KEPT:
            self._errors.popitem(last=False)

    def dump(self) -> dict[str, Any]:
        """Plain data for ``load``."""
        waiting = [event for events in self._waiting.values() for event in events]
        return {
            "begun": list(self._begun.items()),
            "errors": list(self._errors.items()),
            "waiting": [_dump_event(event) for event in waiting],
            "failed": [_dump_event(event) for _, _, event, _ in self._failed],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what ``dump`` gave."""
        self._begun = OrderedDict((tuple(name), [tuple(began) for began in begun]) for name, begun in state["begun"])
        self._errors = OrderedDict((tuple(name), tuple(error)) for name, error in state["errors"])
        for row in (*state["waiting"], *state["failed"]):
            self.take(_load_event(row))


def _dump_event(event: BaseEvent) -> list[Any]:
    return [event.position, event.recorded_ns, event.to_dict()]


def _load_event(row: list[Any]) -> BaseEvent:
    event = parse_event(row[2])
    event.position, event.recorded_ns = row[0], row[1]
    return event
