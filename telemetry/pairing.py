"""Pairs beginnings and ends among a turn's events: agent runs, model calls, tool calls, waits for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from telemetry.spans import AGENT, HUMAN, SPANS, SpanRow

OPENS, CLOSES, ANNOUNCES = 0, 1, 2
MAX_CLIMB = 256

# By type: the row, the role in it, and the first and the last of the row's keys.
_ROLES: dict[str, tuple[SpanRow, int, str, str]] = {
    kind: (row, role, row.key[0], row.key[-1])
    for row in SPANS
    for role, kinds in ((OPENS, row.opens), (CLOSES, row.closes), (ANNOUNCES, row.announces))
    for kind in kinds
}

# (operation, first value of the row's key, last value)
Key = tuple[str, Any, Any]


class Step:
    """One span to be: its row, and the events that belong to it.

    Attributes:
        key: what its events share, a tool and a call id for instance.
        opened, closed: the events at its ends; None where it did not come.
        announced: the event that asked for it, if there is one. others: further events of its beginning.
        first: the event that names it, and whose cause is its cause: its opening, or its end where there is no other.
        start_us, end_us: microseconds since 1970, ``end_us`` not before ``start_us``, the turn's while it is open.
        negative: its end lay before its start and was moved.
        parent: the step it happened in, after ``TurnFacts.find_parents``; None for the turn itself.
        span_id: for whoever builds spans.
    """

    __slots__ = (
        "row",
        "key",
        "opened",
        "closed",
        "announced",
        "others",
        "first",
        "start_us",
        "end_us",
        "negative",
        "parent",
        "span_id",
    )

    def __init__(self, row: SpanRow, key: Key, first: BaseEvent, opened: BaseEvent | None) -> None:
        self.row = row
        self.key = key
        self.first = first
        self.opened = opened
        self.closed: BaseEvent | None = None
        self.announced: BaseEvent | None = None
        self.others: tuple[BaseEvent, ...] = ()
        self.start_us = first.time_us
        self.end_us = 0
        self.negative = False
        self.parent: Step | None = None
        self.span_id = b""


class _Queue:
    """The steps of one key, in order, and how far they are taken up."""

    __slots__ = ("announced", "ended", "steps", "told")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.told: dict[str, int] = {}
        self.ended = 0
        self.announced = 0

    def first_open(self) -> Step | None:
        """The first step without an end."""
        while self.ended < len(self.steps):
            step = self.steps[self.ended]
            if step.closed is None:
                return step
            self.ended += 1
        return None


class Pairing:
    """The steps of events that are in order of time.

    Args:
        events: of one turn, by time, ties by id. by_id: the same by their ids.

    Attributes:
        steps: every step that has begun or ended, in the order of the events that name them.
        step_of: each of them by the ids of its events, but for announcements.
    """

    def __init__(self, events: Sequence[BaseEvent], by_id: Mapping[str, BaseEvent]) -> None:
        self.steps: list[Step] = []
        self.step_of: dict[str, Step] = {}
        self._by_id = by_id
        self._queues: dict[Key, _Queue] = {}
        self._alike: dict[tuple[str, Any], _Queue] | None = None
        ends: list[tuple[BaseEvent, SpanRow, Key]] = []
        announced: list[tuple[BaseEvent, Key]] = []
        for event in events:
            found = _ROLES.get(event.event_type)
            if found is None:
                continue
            row, role, first, last = found
            value = event.data.get(first)
            # What the events of a step share; without it each of them is alone.
            alone = value is None
            key: Key = (row.operation, event.event_id if alone else value, "" if alone else event.data.get(last))
            if role == CLOSES:
                ends.append((event, row, key))
            elif role == ANNOUNCES:
                announced.append((event, key))
            else:
                self._begin(event, row, key)
        # An end belongs to the beginning that is its cause, else to the first open one of its key.
        rest = [end for end in ends if not self._ends_its_cause(*end)]
        for event, row, key in rest:
            self._end(event, row, key)
        for event, key in announced:
            queue = self._queues.get(key)
            if queue is not None and queue.announced < len(queue.steps):
                queue.steps[queue.announced].announced = event
                queue.announced += 1

    def _begin(self, event: BaseEvent, row: SpanRow, key: Key) -> None:
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue()
        if len(row.opens) > 1:
            # Several types may announce one and the same beginning: the n-th of each type belongs to the n-th step.
            nth = queue.told.get(event.event_type, 0)
            queue.told[event.event_type] = nth + 1
            if nth < len(queue.steps):
                step = queue.steps[nth]
                step.others += (event,)
                self.step_of[event.event_id] = step
                return
        step = Step(row, key, event, event)
        queue.steps.append(step)
        self.steps.append(step)
        self.step_of[event.event_id] = step

    def _ends_its_cause(self, event: BaseEvent, row: SpanRow, key: Key) -> bool:
        cause = event.causation_id
        step = self.step_of.get(cause) if cause is not None else None
        if step is None or step.row is not row or step.closed is not None or (step.key != key and not row.loose):
            # A second decision on an approval changes nothing.
            return step is not None and row is HUMAN and step.row is row and step.key == key
        step.closed = event
        self.step_of[event.event_id] = step
        return True

    def _end(self, event: BaseEvent, row: SpanRow, key: Key) -> None:
        """An end whose cause is not its beginning."""
        queue = self._queues.get(key)
        step = self._climb(event, key) if row is AGENT else None
        if step is None and queue is not None:
            step = queue.first_open()
        if step is None and row.loose:
            step = self._first_alike(row, event)
        if step is None:
            if queue is not None and row is HUMAN:
                return
            step = Step(row, key, event, None)
            self.steps.append(step)
        step.closed = event
        self.step_of[event.event_id] = step

    def _first_alike(self, row: SpanRow, end: BaseEvent) -> Step | None:
        """The first open step of that row with the subject that ``end`` names."""
        if self._alike is None:
            self._alike = {}
            for step in self.steps:
                if step.row.loose:
                    name = (step.row.operation, step.first.data.get(step.row.subject))
                    self._alike.setdefault(name, _Queue()).steps.append(step)
        queue = self._alike.get((row.operation, end.data.get(row.subject)))
        return None if queue is None else queue.first_open()

    def _climb(self, end: BaseEvent, key: Key) -> Step | None:
        """The agent's open run in which ``end`` was brought about, along its causes: an agent may run within itself."""
        cause = end.causation_id
        for _ in range(MAX_CLIMB):
            event = self._by_id.get(cause) if cause is not None else None
            if event is None:
                return None
            step = self.step_of.get(event.event_id)
            if step is not None and step.key == key and step.closed is None:
                return step
            cause = event.causation_id
        return None
