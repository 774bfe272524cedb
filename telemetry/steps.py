"""From the events of a turn to its steps: agent runs, model calls, tool calls, waits for people.

Everything here is a function of the set of events, not of the order in which they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_types import EventType as T
from telemetry.phases import Interval, divide
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


class TurnFacts:
    """What the events of one turn say, together.

    Args:
        events: of one correlation id, by their ids, in any order.

    Attributes:
        events: by time, ties by event id. by_id: the same, by their ids.
        start_us, end_us: the turn's first and last moment, microseconds since 1970.
        steps: every step that has begun or ended, by start.
        step_of: each of them by the ids of its events, but for announcements.
        open_steps: those of them without an end. late_starts: those with an end only.
        causes: ids that events name as their cause and that are not among the events.
    """

    def __init__(self, events: Mapping[str, BaseEvent]) -> None:
        self.by_id = dict(events)
        self.events: list[BaseEvent] = sorted(self.by_id.values(), key=_TIME)
        self.start_us = self.events[0].time_us
        self.end_us = self.events[-1].time_us
        self.step_of: dict[str, Step] = {}
        self.steps: list[Step] = []
        self._join()
        self.open_steps = [step for step in self.steps if step.closed is None]
        self.late_starts = [step for step in self.steps if step.opened is None]
        causes: set[str | None] = {event.causation_id for event in self.events}
        causes.difference_update(self.by_id)
        self.causes = {cause for cause in causes if cause is not None}
        self._contexts: dict[str, Step | None] = {}
        self._has_parents = False
        self._phases: dict[str, int] | None = None

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        """Find the beginnings, then the end of each: the one that names it as its cause, else the first of its key."""
        by_key: dict[Key, list[Step]] = {}
        ends: list[tuple[BaseEvent, SpanRow, Key]] = []
        announced: list[tuple[BaseEvent, Key]] = []
        for event in self.events:
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
                self._begin(event, row, key, by_key)
        rest = [end for end in ends if not self._ends_its_cause(*end)]
        for event, row, key in rest:
            self._end(event, row, key, by_key)
        for event, key in announced:
            for step in by_key.get(key, ()):
                if step.announced is None:
                    step.announced = event
                    break
        for step in self.steps:
            closed = step.closed
            step.end_us = self.end_us if closed is None else closed.time_us
            if step.opened is None:
                # A missing beginning is the end less its duration.
                step.start_us = step.end_us - round((step.first.data.get("duration_ms") or 0) * 1000)
                self.start_us = min(self.start_us, step.start_us)
            if step.end_us < step.start_us:
                step.negative = closed is not None
                step.end_us = step.start_us
        self.steps.sort(key=_by_start)

    def _begin(self, event: BaseEvent, row: SpanRow, key: Key, by_key: dict[Key, list[Step]]) -> None:
        same = by_key.get(key)
        if same is None:
            same = by_key[key] = []
        elif len(row.opens) > 1:
            # Several types may announce one and the same beginning: the n-th of each type belongs to the n-th step.
            for step in same:
                if all(event.event_type != known.event_type for known in (step.first, *step.others)):
                    step.others += (event,)
                    self.step_of[event.event_id] = step
                    return
        step = Step(row, key, event, event)
        same.append(step)
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

    def _end(self, event: BaseEvent, row: SpanRow, key: Key, by_key: dict[Key, list[Step]]) -> None:
        """An end whose cause is not its beginning."""
        same = by_key.get(key, ())
        step = self._climb(event, key) if row is AGENT else None
        if step is None:
            step = next((step for step in same if step.closed is None), None)
        if step is None and row.loose:
            subject = event.data.get(row.subject)
            alike = (step for step in self.steps if step.row is row and step.closed is None)
            step = next((step for step in alike if step.first.data.get(row.subject) == subject), None)
        if step is None:
            if same and row is HUMAN:
                return
            step = Step(row, key, event, None)
            self.steps.append(step)
        step.closed = event
        self.step_of[event.event_id] = step

    def _climb(self, end: BaseEvent, key: Key) -> Step | None:
        """The agent's open run in which ``end`` was brought about, along its causes: an agent may run within itself."""
        cause = end.causation_id
        for _ in range(MAX_CLIMB):
            event = self.by_id.get(cause) if cause is not None else None
            if event is None:
                return None
            step = self.step_of.get(event.event_id)
            if step is not None and step.key == key and step.closed is None:
                return step
            cause = event.causation_id
        return None

    # -- places --------------------------------------------------------------------------------------------------------

    def find_parents(self) -> None:
        """Set ``parent`` of every step: the nearest ancestor, along causes, that had begun and not ended."""
        if self._has_parents:
            return
        self._has_parents = True
        for step in self.steps:
            parent = self.context(step.first.causation_id)
            step.parent = None if parent is step else parent
        if all(step.parent is None or step.parent.parent is None for step in self.steps):
            return
        sound: set[Step] = set()
        for step in self.steps:
            path: dict[Step, None] = {}
            above: Step | None = step
            while above is not None and above not in sound:
                if above in path:
                    above.parent = None
                    break
                path[above] = None
                above = above.parent
            sound.update(path)

    def context(self, cause: str | None) -> Step | None:
        """The step in which happened what the event ``cause`` brought about.

        None for the turn itself, also where causes go in circles.
        """
        contexts, step_of = self._contexts, self.step_of
        path: list[str] = []
        found: Step | None = None
        while cause is not None:
            if cause in contexts:
                found = contexts[cause]
                break
            event = self.by_id.get(cause)
            if event is None:
                break
            contexts[cause] = None
            path.append(cause)
            step = step_of.get(cause)
            if step is None:
                cause = event.causation_id
            elif step.closed is event:
                # What follows a step happened where the step did.
                cause = step.first.causation_id
            else:
                found = step
                break
        for cause in path:
            contexts[cause] = found
        return found

    def enclosing(self, event: BaseEvent) -> Step | None:
        """The step in which ``event`` happened and whose time contains it; None for the turn itself."""
        cause = event.causation_id
        step = self.step_of.get(cause) if cause is not None else None
        if step is None or not step.start_us <= event.time_us <= step.end_us:
            step = self.context(cause)
        self.find_parents()
        while step is not None and not step.start_us <= event.time_us <= step.end_us:
            step = step.parent
        return step

    # -- the turn ------------------------------------------------------------------------------------------------------

    @property
    def has_agents(self) -> bool:
        """Whether any agent's run is among the steps: only then does the turn say itself when it ends."""
        return any(step.row is AGENT for step in self.steps)

    @property
    def awaits_person(self) -> bool:
        """Whether an approval is open."""
        return any(step.row is HUMAN for step in self.open_steps)

    def agent_error(self, end: BaseEvent) -> str:
        """Why the agent's run failed that ``end`` ended: the error which that agent reported nearest in time."""
        agent = end.data.get("agent")
        errors = [
            (abs(event.time_us - end.time_us), event.event_id, event.data["error_type"])
            for event in self.events
            if event.event_type == T.AGENT_ERROR_OCCURRED and event.data["agent"] == agent
        ]
        return str(min(errors)[2]) if errors else "error"

    def error_type(self) -> str:
        """Why the turn failed, empty if it did not: the error of the agent's run that ended last, if that failed."""
        ended = (step for step in self.steps if step.row is AGENT and step.closed is not None)
        last = max(ended, key=_by_end, default=None)
        if last is None or last.closed is None or last.closed.data.get("success", True):
            return ""
        return self.agent_error(last.closed)

    def phases(self) -> dict[str, int]:
        """The turn's microseconds, divided without overlap: model, tool, human, runtime (the rest)."""
        if self._phases is None:
            intervals: list[Interval] = []
            for step in self.steps:
                phase = step.row.phase
                if phase and step.end_us > step.start_us:
                    intervals.append((step.start_us, step.end_us, phase, step.key[1:]))
            self._phases = divide(intervals, self.end_us - self.start_us)
        return self._phases


def opening_of(row: SpanRow, end: BaseEvent, events: Mapping[str, BaseEvent]) -> BaseEvent | None:
    """The beginning that ``end`` names as its cause, if it does and ``events`` has it."""
    cause = events.get(end.causation_id or "")
    return cause if cause is not None and cause.event_type in row.opens else None


_TIME = attrgetter("time_us", "event_id")


def _by_start(step: Step) -> tuple[int, int, str]:
    return (step.start_us, -step.end_us, step.first.event_id)


def _by_end(step: Step) -> tuple[int, int, str]:
    return (step.end_us, -step.start_us, step.first.event_id)
