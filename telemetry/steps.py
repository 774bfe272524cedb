"""From the events of a turn to its steps: agent runs, model calls, tool calls, waits for people; with parents and
phases.

Everything here is a function of the set of events, not of the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_types import EventType as T
from telemetry.spans import AGENT, HUMAN, SPANS, SpanRow

OPENS, CLOSES, ANNOUNCES = 0, 1, 2

_ROLES: dict[str, tuple[SpanRow, int]] = {}
for _row in SPANS:
    for _role, _types in ((OPENS, _row.opens), (CLOSES, _row.closes), (ANNOUNCES, _row.announces)):
        for _type in _types:
            _ROLES[_type] = (_row, _role)


class Step:
    """One span to be: its row, and the events that belong to it.

    Attributes:
        key: what its events share, a call id for instance.
        opened, closed: the events at its ends; None where it did not come.
        announced: the event that asked for it, if there is one. others: further events of its beginning.
        start_us, end_us: microseconds since 1970, ``end_us`` never before ``start_us``; the turn's last time while it
            is open.
        negative: its end lay before its start and was moved.
    """

    __slots__ = ("row", "key", "opened", "closed", "announced", "others", "start_us", "end_us", "negative")

    def __init__(self, row: SpanRow, key: str) -> None:
        self.row = row
        self.key = key
        self.opened: BaseEvent | None = None
        self.closed: BaseEvent | None = None
        self.announced: BaseEvent | None = None
        self.others: list[BaseEvent] = []
        self.start_us = 0
        self.end_us = 0
        self.negative = False

    def settle_times(self, last_us: int) -> None:
        """Set start and end from the events; a missing beginning is the end less its duration."""
        closed, opened = self.closed, self.opened
        self.end_us = last_us if closed is None else closed.time_us
        if opened is not None:
            self.start_us = opened.time_us
        elif closed is not None:
            self.start_us = closed.time_us - round((closed.data.get("duration_ms") or 0) * 1000)
        if self.end_us < self.start_us:
            self.negative = closed is not None
            self.end_us = self.start_us

    def first(self) -> BaseEvent:
        """The event that names it, and whose cause is its cause: its opening, or its end where that is all there is."""
        event = self.opened or self.closed
        assert event is not None
        return event


class TurnFacts:
    """What the events of one turn say, together.

    Args:
        events: of one correlation id, in any order.

    Attributes:
        events: by time, ties by event id.
        steps: every step that has begun or ended, by start.
        open_steps: those of them without an end. late_starts: those with an end only.
        causes: ids that events name as their cause and that are not among the events.
    """

    def __init__(self, events: Iterable[BaseEvent]) -> None:
        self.events: list[BaseEvent] = sorted(events, key=_by_time)
        self.by_id: dict[str, BaseEvent] = {event.event_id: event for event in self.events}
        self.start_us = self.events[0].time_us
        self.end_us = self.events[-1].time_us
        self.step_of: dict[str, Step] = {}
        self.steps = self._find_steps()
        self.open_steps = [step for step in self.steps if step.closed is None]
        self.late_starts = [step for step in self.steps if step.opened is None]
        by_id = self.by_id
        self.causes = {
            event.causation_id for event in self.events if event.causation_id and event.causation_id not in by_id
        }
        self._parents: dict[str, Step | None] = {}

    def _find_steps(self) -> list[Step]:
        """Beginnings first, then ends: an end belongs to the beginning that is its cause, else to the first open one
        of its key."""
        by_key: dict[tuple[str, str], list[Step]] = {}
        steps: list[Step] = []
        seen: dict[tuple[str, str], int] = {}
        ends: list[tuple[BaseEvent, SpanRow]] = []
        announced: list[tuple[BaseEvent, SpanRow]] = []
        for event in self.events:
            found = _ROLES.get(event.event_type)
            if found is None:
                continue
            row, role = found
            if role != OPENS:
                (ends if role == CLOSES else announced).append((event, row))
                continue
            key = step_key(row, role, event)
            same = by_key.setdefault((row.operation, key), [])
            # Several types may announce one and the same beginning; the n-th of each type belongs to the n-th step of
            # that key.
            nth = seen.get((event.event_type, key), 0)
            seen[event.event_type, key] = nth + 1
            if nth < len(same):
                step = same[nth]
                step.others.append(event)
            else:
                step = Step(row, key)
                step.opened = event
                same.append(step)
                steps.append(step)
            self.step_of[event.event_id] = step
        for event, row in ends:
            end_of = self._begun_by(event, row, by_key)
            if end_of is None:
                end_of = Step(row, step_key(row, CLOSES, event))
                steps.append(end_of)
            elif end_of.closed is not None:
                continue
            end_of.closed = event
            self.step_of[event.event_id] = end_of
        for event, row in announced:
            for step in by_key.get((row.operation, step_key(row, ANNOUNCES, event)), ()):
                if step.announced is None:
                    step.announced = event
                    break
        for step in steps:
            step.settle_times(self.end_us)
            if step.start_us < self.start_us:
                self.start_us = step.start_us
        steps.sort(key=_by_start)
        return steps

    def _begun_by(self, end: BaseEvent, row: SpanRow, by_key: dict[tuple[str, str], list[Step]]) -> Step | None:
        """The step that ``end`` ends: along its causes, else by its key; None if its beginning is missing.

        A second decision on an approval gives the step that was decided already.
        """
        key = step_key(row, CLOSES, end)
        cause = end.causation_id
        for _ in range(len(self.events)):
            step = self.step_of.get(cause) if cause else None
            if step is not None and step.row is row and step.key == key and step.closed is None:
                return step
            event = self.by_id.get(cause) if cause else None
            if event is None or row is not AGENT:
                break
            cause = event.causation_id
        same = by_key.get((row.operation, key), ())
        for step in same:
            if step.closed is None:
                return step
        return same[-1] if same and row is HUMAN else None

    @property
    def has_agents(self) -> bool:
        """Whether any agent's run is among the steps: only then does the turn say itself when it ends."""
        return any(step.row is AGENT for step in self.steps)

    @property
    def awaits_person(self) -> bool:
        """Whether an approval is open."""
        return any(step.row is HUMAN for step in self.open_steps)

    def parent(self, event: BaseEvent) -> Step | None:
        """The step in which ``event`` happened: its nearest ancestor, along causes, that was open; None for the
        turn."""
        cause = event.causation_id
        for _ in range(2 * len(self.events)):
            ancestor = self.by_id.get(cause) if cause else None
            if ancestor is None:
                return None
            step = self.step_of.get(ancestor.event_id)
            if step is None:
                cause = ancestor.causation_id
            elif step.closed is ancestor:
                cause = step.first().causation_id if step.opened is not None else ancestor.causation_id
            elif step.opened is not None and self.step_of.get(event.event_id) is not step:
                return step
            else:
                cause = ancestor.causation_id
        return None

    def enclosing(self, event: BaseEvent) -> Step | None:
        """As ``parent``, but only a step whose time contains the event's."""
        step: Step | None = self.step_of.get(event.causation_id or "")
        if step is None or not step.start_us <= event.time_us <= step.end_us:
            step = self.parent(event)
        for _ in range(len(self.steps)):
            if step is None or step.start_us <= event.time_us <= step.end_us:
                return step
            step = self.parent(step.first())
        return None

    def error_type(self) -> str:
        """Why the turn failed, empty if it did not: the error of its last agent run, if that failed."""
        ends = [event for event in self.events if event.event_type == T.AGENT_PROCESSING_COMPLETED]
        if not ends or ends[-1].data.get("success", True):
            return ""
        return agent_error(self.events, ends[-1].data.get("agent")) or "error"

    def phases(self) -> dict[str, int]:
        """The turn's microseconds, divided without overlap: model, tool, human, runtime (the rest); their sum is the
        turn.

        Where steps overlap the work counts before the wait: model, then tool, then human. A tool call whose time
            includes the wait for its own approval counts as human for that long.
        """
        intervals: dict[str, list[tuple[int, int]]] = {"model": [], "tool": [], "human": []}
        waits: dict[str, list[tuple[int, int]]] = {}
        for step in self.steps:
            if step.row is HUMAN:
                waits.setdefault(step.key, []).append((step.start_us, step.end_us))
        for step in self.steps:
            if step.row.phase and step.end_us > step.start_us:
                own = [(step.start_us, step.end_us)]
                if step.row.phase == "tool":
                    for wait in waits.get(step.key, ()):
                        own = _without(own, wait)
                intervals[step.row.phase] += own
        covered: list[tuple[int, int]] = []
        phases: dict[str, int] = {}
        total = 0
        for phase, own in intervals.items():
            if own:
                covered = _union(covered + own)
                now = sum(end - start for start, end in covered)
                phases[phase] = now - total
                total = now
            else:
                phases[phase] = 0
        phases["runtime"] = self.end_us - self.start_us - total
        return phases


def step_key(row: SpanRow, role: int, event: BaseEvent) -> str:
    """What the events of a step share: the key of their data, else the opening event's id, the end's cause."""
    if row.key:
        key = event.data.get(row.key)
        if key is not None:
            return str(key)
    return event.event_id if role == OPENS else event.causation_id or event.event_id


def agent_error(events: Sequence[BaseEvent], agent: object) -> str | None:
    """The type of the last error that ``agent`` reported among ``events``."""
    for event in reversed(events):
        if event.event_type == T.AGENT_ERROR_OCCURRED and event.data.get("agent") == agent:
            return str(event.data.get("error_type"))
    return None


def _by_start(step: Step) -> tuple[int, int, str]:
    return (step.start_us, -step.end_us, step.first().event_id)


def _by_time(event: BaseEvent) -> tuple[int, str]:
    return (event.time_us, event.event_id)


def _without(intervals: list[tuple[int, int]], hole: tuple[int, int]) -> list[tuple[int, int]]:
    rest = []
    for start, end in intervals:
        rest += [(start, min(end, hole[0])), (max(start, hole[1]), end)]
    return [(start, end) for start, end in rest if end > start]


def _union(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged
