"""Turns that are under way: which are open, when one is looked at, and when it is settled.

All decisions hang on recording times alone, never on when somebody happens to look, so folding again decides the same.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.store.base import EventStore
from telemetry.steps import TurnFacts

NS = 1_000_000_000
MAX_OPEN_TURNS = 10_000
MAX_TURN_EVENTS = 10_000
MAX_SETTLED = 20_000
# A turn that never falls silent is looked at all the same, after this many graces.
EAGER_GRACES = 6


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long what is missing is waited for, in nanoseconds of recording time since the turn's last event.

    Attributes:
        grace: until a turn that has ended is settled, and what has closed in one that waits is given out.
        late: for a cause, a beginning or an agent's run that nobody has seen.
        turn: for the end of a step. approval: for a person.
    """

    grace: int = 5 * NS
    late: int = 60 * NS
    turn: int = 3_600 * NS
    approval: int = 86_400 * NS


class Turn:
    """The events of one correlation id that are not settled.

    Attributes:
        last_ns: recording time of its newest event. look_by_ns: when it is looked at even though events keep coming.
        given_out: names of the spans that have left already. late: it was settled before, and these events came after.
    """

    __slots__ = ("correlation_id", "events", "last_ns", "look_by_ns", "given_out", "late", "settled_at")

    def __init__(self, correlation_id: str, settled_at: int = 0) -> None:
        self.correlation_id = correlation_id
        self.events: list[BaseEvent] = []
        self.last_ns = 0
        self.look_by_ns = 0
        self.given_out: set[str] = set()
        self.settled_at = settled_at
        self.late = settled_at > 0


Look = Callable[[Turn, TurnFacts, bool, bool], None]


class TurnBook:
    """Keeps the open turns.

    Args:
        deadlines: see ``Deadlines``.
        look: called when a turn is due, with its facts, whether it is settled now, and whether that is incomplete.
        store: asked about causes outside a turn, and about what a turn held that was settled or is loaded again.
    """

    def __init__(self, deadlines: Deadlines, look: Look, store: EventStore) -> None:
        self._deadlines = deadlines
        self._look = look
        self._store = store
        self._active: OrderedDict[str, Turn] = OrderedDict()
        self._waiting: dict[str, Turn] = {}
        self._alarms: list[tuple[int, str]] = []
        self._settled: OrderedDict[str, int] = OrderedDict()
        self._eager_ns = EAGER_GRACES * deadlines.grace

    def __len__(self) -> int:
        return len(self._active) + len(self._waiting)

    def add(self, event: BaseEvent) -> Turn | None:
        """Take an event; its turn, or None if it has none. ``due`` must have been called up to its recording time."""
        correlation_id = event.correlation_id
        if correlation_id is None:
            return None
        turn = self._active.get(correlation_id)
        if turn is None:
            turn = self._waiting.pop(correlation_id, None)
            if turn is None:
                turn = Turn(correlation_id, self._settled.get(correlation_id, 0))
                if turn.late:
                    turn.events = self._history(correlation_id, event.position - 1)
            turn.look_by_ns = event.recorded_ns + self._eager_ns
            self._active[correlation_id] = turn
            if len(self._active) + len(self._waiting) > MAX_OPEN_TURNS:
                self._shed()
        else:
            self._active.move_to_end(correlation_id)
        turn.events.append(event)
        turn.last_ns = recorded_ns = event.recorded_ns
        if recorded_ns > turn.look_by_ns:
            self._examine(turn, silent=False)
        elif len(turn.events) > MAX_TURN_EVENTS:
            self._settle(turn, TurnFacts(turn.events), incomplete=True)
        return turn

    def due(self, now_ns: int) -> None:
        """Look at every turn that is due before ``now_ns``: everything recorded before has been added."""
        grace = self._deadlines.grace
        active = self._active
        while active:
            correlation_id, turn = next(iter(active.items()))
            if turn.last_ns + grace >= now_ns:
                break
            del active[correlation_id]
            self._examine(turn, silent=True)
        alarms = self._alarms
        while alarms and alarms[0][0] < now_ns:
            alarm_ns, correlation_id = heapq.heappop(alarms)
            waiting = self._waiting.get(correlation_id)
            if waiting is not None and waiting.look_by_ns == alarm_ns:
                self._settle(waiting, TurnFacts(waiting.events), incomplete=True)

    def next_due(self, recorded_ns: int) -> bool:
        """Whether ``due(recorded_ns)`` would find anything; cheap, for the hot path."""
        if self._active and next(iter(self._active.values())).last_ns + self._deadlines.grace < recorded_ns:
            return True
        return bool(self._alarms) and self._alarms[0][0] < recorded_ns

    def _examine(self, turn: Turn, silent: bool) -> None:
        facts = TurnFacts(turn.events)
        wait_ns = self._missing(turn, facts)
        if silent and wait_ns == 0:
            self._settle(turn, facts, incomplete=False)
            return
        self._look(turn, facts, False, False)
        if silent:
            turn.look_by_ns = turn.last_ns + wait_ns
            self._waiting[turn.correlation_id] = turn
            heapq.heappush(self._alarms, (turn.look_by_ns, turn.correlation_id))
        else:
            turn.look_by_ns = turn.last_ns + self._eager_ns

    def _missing(self, turn: Turn, facts: TurnFacts) -> int:
        """For how long, since its last event, the turn must wait for what is missing; 0 if nothing is."""
        if turn.late:
            return 0
        if facts.open_steps:
            return self._deadlines.approval if facts.awaits_person else self._deadlines.turn
        if not facts.has_agents or facts.late_starts:
            return self._deadlines.late
        if any(self._store.get(cause) is None for cause in facts.causes):
            return self._deadlines.late
        return 0

    def _settle(self, turn: Turn, facts: TurnFacts, incomplete: bool) -> None:
        self._active.pop(turn.correlation_id, None)
        self._waiting.pop(turn.correlation_id, None)
        self._settled[turn.correlation_id] = max(event.position for event in turn.events)
        self._settled.move_to_end(turn.correlation_id)
        if len(self._settled) > MAX_SETTLED:
            self._settled.popitem(last=False)
        self._look(turn, facts, True, incomplete and bool(facts.open_steps))

    def _shed(self) -> None:
        """Too many are open: the one that has been silent longest is settled as it is."""
        turns = self._waiting or self._active
        turn = turns[next(iter(turns))]
        self._settle(turn, TurnFacts(turn.events), incomplete=True)

    def _history(self, correlation_id: str, position: int) -> list[BaseEvent]:
        """A turn's events up to ``position``, as the store has them."""
        events = self._store.query(correlation_id=correlation_id, limit=MAX_TURN_EVENTS)
        return [event for event in events if event.position <= position]

    def dump(self) -> dict[str, Any]:
        """Plain data from which ``load`` rebuilds the book, with the events read from the store again."""
        return {
            "active": [_dump_turn(turn) for turn in self._active.values()],
            "waiting": [_dump_turn(turn) for turn in self._waiting.values()],
            "settled": list(self._settled.items()),
        }

    def load(self, state: dict[str, Any], position: int) -> None:
        """Take over what ``dump`` gave when the fold stood at ``position``."""
        for name, turns in (("active", self._active), ("waiting", self._waiting)):
            for correlation_id, look_by_ns, settled_at, given_out in state[name]:
                turn = Turn(correlation_id, settled_at)
                turn.events = self._history(correlation_id, position)
                if not turn.events:
                    continue
                turn.last_ns = turn.events[-1].recorded_ns
                turn.look_by_ns = look_by_ns
                turn.given_out = set(given_out)
                turns[correlation_id] = turn
        self._settled = OrderedDict((correlation_id, position) for correlation_id, position in state["settled"])
        self._alarms = [(turn.look_by_ns, correlation_id) for correlation_id, turn in self._waiting.items()]
        heapq.heapify(self._alarms)


def _dump_turn(turn: Turn) -> list[Any]:
    return [turn.correlation_id, turn.look_by_ns, turn.settled_at, sorted(turn.given_out)]
