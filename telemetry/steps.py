"""What the events of a turn say together: its steps, with their places in one another, its phases, its errors.

Everything here is a function of the set of events, not of the order in which they came.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_types import EventType as T
from telemetry.pairing import Pairing, Step
from telemetry.phases import Interval, divide
from telemetry.spans import AGENT, HUMAN, SpanRow


class TurnFacts:
    """What the events of one turn say, together.

    Args:
        events: of one correlation id, by their ids, in any order.

    Attributes:
        events: by time, ties by event id. by_id: the same, by their ids.
        start_us, end_us: the turn's first and last moment, microseconds since 1970.
        steps: every step that has begun or ended, by start.
        step_of: each of them by the ids of its events, but for announcements.
        open_steps: those of them without an end. late_starts: those whose beginning must be late.
        causes: ids that events name as their cause and that are not among the events.
    """

    def __init__(self, events: Mapping[str, BaseEvent]) -> None:
        self.by_id = dict(events)
        self.events: list[BaseEvent] = sorted(self.by_id.values(), key=_TIME)
        self.start_us = self.events[0].time_us
        self.end_us = self.events[-1].time_us
        pairing = Pairing(self.events, self.by_id)
        self.step_of, self.steps = pairing.step_of, pairing.steps
        self._set_times()
        self.steps.sort(key=_by_start)
        self.open_steps = [step for step in self.steps if step.closed is None]
        self.late_starts = [step for step in self.steps if step.opened is None and not self._is_refusal(step.first)]
        causes: set[str | None] = {event.causation_id for event in self.events}
        causes.difference_update(self.by_id)
        self.causes = {cause for cause in causes if cause is not None}
        self._contexts: dict[str, Step | None] = {}
        self._has_parents = False
        self._phases: dict[str, int] | None = None
        self._errors: dict[str, list[tuple[Any, ...]]] | None = None

    def _is_refusal(self, end: BaseEvent) -> bool:
        """Whether a call was refused when it was requested, and so has no beginning."""
        cause = self.by_id.get(end.causation_id or "")
        requested = cause is not None and cause.event_type == T.TOOL_EXECUTION_REQUESTED
        return requested and end.event_type == T.TOOL_EXECUTION_FAILED and end.data.get("duration_ms") == 0

    def _set_times(self) -> None:
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
        if self._errors is None:
            self._errors = {}
            for event in self.events:
                if event.event_type == T.AGENT_ERROR_OCCURRED:
                    error = (event.time_us, event.event_id, event.data["error_type"])
                    self._errors.setdefault(event.data["agent"], []).append(error)
        errors = self._errors.get(end.data["agent"])
        if errors is None:
            return "error"
        moment = end.time_us
        after = bisect_left(errors, (moment,))
        near = errors[after : after + 1]
        if after:
            # Of several at the same moment the one with the least id.
            near.append(errors[bisect_left(errors, (errors[after - 1][0],))])
        return str(min(near, key=lambda error: (abs(error[0] - moment), error[1]))[2])

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
