"""Turns that are under way: which are open, when one is looked at, and when it is settled.

All decisions hang on recording times alone, never on when somebody happens to look, so folding again decides the same.
"""

from __future__ import annotations

import heapq
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_types import EventType
from agent_runtime.events.store.base import EventStore
from telemetry.steps import TurnFacts

logger = logging.getLogger("agent_runtime.telemetry")

NS = 1_000_000_000
MAX_OPEN_TURNS = 20_000
MAX_TURN_EVENTS = 10_000
MAX_SETTLED = 20_000
MAX_CAUSES = 128
MAX_SHARED = 4_000
# A turn that never falls silent is looked at all the same, after this many graces.
EAGER_GRACES = 6
# The event with which the service speaks of its own start, and its source.
STARTUP = EventType.SYSTEM_STARTUP
SERVICE = "agent-runtime"


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
        events: by id, in store order; of a turn that was settled before, the earlier ones too.
        last_ns: recording time of its newest event.
        wait_ns: how long it waits since then for what is missing; 0 if that was not asked yet.
        look_by_ns: when it is looked at even though events keep coming.
        settled_at: position of the last event it had when it was settled; 0 if it never was.
        marked: ids of events that the fold has made a note of, in order.
        session_id: the session of the first event that named one.
    """

    __slots__ = (
        "correlation_id",
        "events",
        "last_ns",
        "wait_ns",
        "look_by_ns",
        "settled_at",
        "marked",
        "session_id",
        "limit",
    )

    def __init__(self, correlation_id: str, settled_at: int, history: list[BaseEvent]) -> None:
        self.correlation_id = correlation_id
        self.events = {event.event_id: event for event in history}
        self.last_ns = 0
        self.wait_ns = 0
        self.look_by_ns = 0
        self.settled_at = settled_at
        self.marked: dict[str, None] = {}
        self.session_id = next((event.session_id for event in history if event.session_id is not None), None)
        self.limit = len(history) + MAX_TURN_EVENTS

    def last_position(self) -> int:
        """Position of its newest event."""
        return next(reversed(self.events.values())).position


class SharedFacts:
    """Lets two folds of the same events work out the facts of a turn once: the second takes what the first has left."""

    def __init__(self) -> None:
        self._left: OrderedDict[tuple[str, int, int], TurnFacts] = OrderedDict()

    def of(self, turn: Turn) -> TurnFacts:
        """The facts of ``turn`` as it stands."""
        name = (turn.correlation_id, turn.last_position(), len(turn.events))
        facts = self._left.pop(name, None)
        if facts is None:
            facts = self._left[name] = TurnFacts(turn.events)
            if len(self._left) > MAX_SHARED:
                self._left.popitem(last=False)
        return facts


# turn, its facts, the look's moment (nanoseconds of recording time), whether it is settled now, whether incomplete
Look = Callable[[Turn, TurnFacts, int, bool, bool], None]


class TurnBook:
    """Keeps the open turns.

    Args:
        deadlines: see ``Deadlines``.
        look: called when a turn is due.
        store: asked about causes outside a turn, and about what a turn held that was settled or is loaded again.
        shared: facts to share with another book.

    Attributes:
        alarms: a heap of (when to look, at which turn); always the same list. Nothing is due before the first of them.
    """

    def __init__(self, deadlines: Deadlines, look: Look, store: EventStore, shared: SharedFacts | None = None) -> None:
        self._deadlines = deadlines
        self._look = look
        self._store = store
        self._shared = shared
        self._turns: dict[str, Turn] = {}
        # One for each open turn, perhaps too early, never too late; and some that are left over.
        self.alarms: list[tuple[int, str]] = []
        self._settled: OrderedDict[str, int] = OrderedDict()
        self._eager_ns = EAGER_GRACES * deadlines.grace
        self._since_ns = 0

    def __len__(self) -> int:
        return len(self._turns)

    def get(self, correlation_id: str) -> Turn | None:
        """An open turn."""
        return self._turns.get(correlation_id)

    def add(self, event: BaseEvent, correlation_id: str) -> Turn:
        """Take an event; its turn. ``due`` must have been called up to its recording time."""
        turn = self._turns.get(correlation_id)
        if turn is None or len(turn.events) >= turn.limit:
            turn = self._begin(correlation_id, event)
        elif turn.wait_ns:
            turn.wait_ns = 0
            turn.look_by_ns = event.recorded_ns + self._eager_ns
            self._set_alarm(event.recorded_ns + self._deadlines.grace, correlation_id)
        turn.events[event.event_id] = event
        turn.last_ns = event.recorded_ns
        return turn

    def _begin(self, correlation_id: str, event: BaseEvent) -> Turn:
        """A new turn; the one that has no more room, or the first if there are too many, is settled as it is."""
        full = self._turns.get(correlation_id)
        if full is None and len(self._turns) >= MAX_OPEN_TURNS:
            full = next(iter(self._turns.values()))
        if full is not None:
            self._settle(full, self._facts(full), event.recorded_ns - 1)
        settled_at = self._settled.get(correlation_id, 0)
        turn = Turn(correlation_id, settled_at, self._history(correlation_id, settled_at) if settled_at else [])
        turn.look_by_ns = event.recorded_ns + self._eager_ns
        self._turns[correlation_id] = turn
        self._set_alarm(event.recorded_ns + self._deadlines.grace, correlation_id)
        return turn

    def _set_alarm(self, due_ns: int, correlation_id: str) -> None:
        alarms = self.alarms
        if len(alarms) > 2 * len(self._turns) + 1_000:
            # Most are left over from turns that went on before their deadline.
            alarms[:] = [(self._due_ns(turn), turn.correlation_id) for turn in self._turns.values()]
            heapq.heapify(alarms)
        heapq.heappush(alarms, (due_ns, correlation_id))

    def resume(self, event: BaseEvent) -> None:
        """The service says that it starts: the silence while nobody listened does not count.

        Every open turn has its grace again. Call it before ``due`` is called up to the event's recording time.
        """
        if event.source == SERVICE:
            self._since_ns = event.recorded_ns

    def _due_ns(self, turn: Turn) -> int:
        """When the turn is looked at next, if nothing comes."""
        grace, since_ns = self._deadlines.grace, self._since_ns
        if turn.wait_ns:
            return max(turn.last_ns + turn.wait_ns, since_ns + grace)
        return min(max(turn.last_ns, since_ns) + grace, max(turn.look_by_ns, since_ns + self._eager_ns))

    def due(self, now_ns: int) -> None:
        """Look at every turn that is due before ``now_ns``: everything recorded before has been added."""
        alarms = self.alarms
        while alarms and alarms[0][0] < now_ns:
            alarm_ns, correlation_id = heapq.heappop(alarms)
            turn = self._turns.get(correlation_id)
            if turn is None:
                continue
            due_ns = self._due_ns(turn)
            if due_ns > alarm_ns:
                heapq.heappush(alarms, (due_ns, correlation_id))
                continue
            try:
                self._examine(turn, due_ns)
            except Exception:
                logger.exception("turn %s can't be settled", correlation_id)
                self._turns.pop(correlation_id, None)

    def _examine(self, turn: Turn, at_ns: int) -> None:
        grace = self._deadlines.grace
        facts = self._facts(turn)
        if not turn.wait_ns and max(turn.last_ns, self._since_ns) + grace > at_ns:
            turn.look_by_ns = at_ns + self._eager_ns
            self._look(turn, facts, at_ns, False, False)
        else:
            wait_ns, closed_is_final = self._missing(turn, facts, at_ns)
            if wait_ns == 0:
                self._settle(turn, facts, at_ns)
                return
            turn.wait_ns = max(wait_ns, grace)
            if closed_is_final:
                self._look(turn, facts, at_ns, False, False)
        heapq.heappush(self.alarms, (self._due_ns(turn), turn.correlation_id))

    def _missing(self, turn: Turn, facts: TurnFacts, at_ns: int) -> tuple[int, bool]:
        """For how long, since its last event, the turn must wait for what is missing, 0 if for nothing.

        And whether what has closed is final: not where a cause is missing, because a span's place is known by causes.
        """
        deadlines, waited_ns = self._deadlines, turn.wait_ns
        if turn.settled_at:
            return 0, True
        late = waited_ns < deadlines.late
        if late and facts.causes and not self._knows(facts, at_ns):
            return deadlines.late, False
        if facts.open_steps:
            wait_ns = deadlines.approval if facts.awaits_person else deadlines.turn
            return (wait_ns if waited_ns < wait_ns else 0), True
        if late and (facts.late_starts or not facts.has_agents):
            return deadlines.late, True
        return 0, True

    def _knows(self, facts: TurnFacts, at_ns: int) -> bool:
        """Whether all causes outside the turn had been recorded at ``at_ns``."""
        causes = (recorded_cause(self._store, cause, at_ns) for cause in sorted(facts.causes)[:MAX_CAUSES])
        return all(cause is not None for cause in causes)

    def _settle(self, turn: Turn, facts: TurnFacts, at_ns: int) -> None:
        del self._turns[turn.correlation_id]
        self._settled[turn.correlation_id] = turn.last_position()
        self._settled.move_to_end(turn.correlation_id)
        if len(self._settled) > MAX_SETTLED:
            self._settled.popitem(last=False)
        self._look(turn, facts, at_ns, True, bool(facts.open_steps))

    def _facts(self, turn: Turn) -> TurnFacts:
        return TurnFacts(turn.events) if self._shared is None else self._shared.of(turn)

    def _history(self, correlation_id: str, until: int) -> list[BaseEvent]:
        """A turn's first events up to the position ``until``, as the store has them."""
        events = self._store.query(correlation_id=correlation_id, limit=MAX_TURN_EVENTS)
        return [event for event in events if event.position <= until]

    def dump(self) -> dict[str, Any]:
        """Plain data from which ``load`` rebuilds the book, with the events read from the store again."""
        turns = [
            [turn.correlation_id, turn.last_ns, turn.wait_ns, turn.look_by_ns, turn.settled_at, list(turn.marked)]
            for turn in self._turns.values()
        ]
        return {"turns": turns, "settled": list(self._settled.items()), "since": self._since_ns}

    def load(self, state: dict[str, Any], position: int) -> None:
        """Take over what ``dump`` gave when the fold stood at ``position``."""
        self._turns.clear()
        self.alarms.clear()
        self._since_ns = state["since"]
        self._settled = OrderedDict((correlation_id, settled_at) for correlation_id, settled_at in state["settled"])
        for correlation_id, last_ns, wait_ns, look_by_ns, settled_at, marked in state["turns"]:
            turn = Turn(correlation_id, settled_at, self._history(correlation_id, settled_at) if settled_at else [])
            since = self._store.query(correlation_id=correlation_id, after=settled_at, limit=MAX_TURN_EVENTS)
            for event in since:
                if event.position <= position:
                    turn.events[event.event_id] = event
                    turn.session_id = turn.session_id or event.session_id
            if not turn.events:
                continue
            turn.last_ns = last_ns
            turn.wait_ns, turn.look_by_ns, turn.marked = wait_ns, look_by_ns, dict.fromkeys(marked)
            self._turns[correlation_id] = turn
            self._set_alarm(self._due_ns(turn), correlation_id)


def recorded_cause(store: EventStore, event_id: str, at_ns: int) -> BaseEvent | None:
    """The event of that id, if it had been recorded at ``at_ns``: what came later must not change what was decided."""
    event = store.get(event_id)
    return event if event is not None and event.recorded_ns <= at_ns else None
