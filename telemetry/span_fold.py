"""The spans as a fold of events: each is given out once, when it has closed and its turn has had its grace."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence

import orjson

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.store.base import EventStore
from telemetry.pairing import Step
from telemetry.span import Span
from telemetry.span_builder import SpanBuilder, events_of, was_recorded
from telemetry.steps import TurnFacts
from telemetry.turns import STARTUP, Deadlines, SharedFacts, Turn, TurnBook

logger = logging.getLogger("agent_runtime.telemetry")

FOLD_VERSION = "spans-1"
MAX_SESSIONS = 2_000
MAX_TURNS_OF_SESSION = 64


class _Session:
    """The turns of a session: those under way, and the latest that are settled, by their start in microseconds."""

    __slots__ = ("open", "settled")

    def __init__(self) -> None:
        self.open: dict[str, None] = {}
        self.settled: list[tuple[int, str]] = []


class SpanFold:
    """A projection whose output is ``take()``: the spans that became due since the last call.

    Args:
        store: asked for causes in other turns, and for the events of turns that are loaded again or come late.
        deadlines: when turns are settled.
        shared: facts of turns to share with the metrics fold.
    """

    name = "spans"

    def __init__(
        self, store: EventStore, deadlines: Deadlines | None = None, shared: SharedFacts | None = None
    ) -> None:
        deadlines = deadlines or Deadlines()
        self.version = f"{FOLD_VERSION}-{deadlines}"
        self.position = 0
        self.changed = False
        self._grace_ns = deadlines.grace
        self._store = store
        self._out: list[Span] = []
        self._turns = TurnBook(deadlines, self._turn_looked_at, store, shared)
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def apply(self, events: Sequence[BaseEvent]) -> None:
        """See ``Projection.apply``."""
        add_to_turn, alarms = self._turns.add, self._turns.alarms
        for event in events:
            if event.event_type is STARTUP:
                self._turns.resume(event)
            if alarms and alarms[0][0] < event.recorded_ns:
                self._turns.due(event.recorded_ns)
            correlation_id = event.correlation_id
            if correlation_id is None:
                continue
            try:
                turn = add_to_turn(event, correlation_id)
                if turn.session_id is None and event.session_id is not None:
                    turn.session_id = event.session_id
                    self._note_turn(event.session_id, turn)
            except Exception:
                logger.exception("spans can't take event %s", event.event_id)
        if events:
            self.position = events[-1].position

    def settle(self, now_ns: int) -> None:
        """See ``Projection.settle``."""
        self._turns.due(now_ns)

    def take(self) -> list[Span]:
        """The spans that became due, each once."""
        out, self._out = self._out, []
        self.changed = self.changed or bool(out)
        return out

    @property
    def open_turns(self) -> int:
        """How many turns are not settled."""
        return len(self._turns)

    # -- the turns of a session ----------------------------------------------------------------------------------------

    def _note_turn(self, session_id: str, turn: Turn) -> None:
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = _Session()
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        else:
            self._sessions.move_to_end(session_id)
        if not turn.settled_at:
            session.open[turn.correlation_id] = None

    def _turn_before(self, turn: Turn, facts: TurnFacts) -> str | None:
        """The turn of the session that began last before this one, which is settled now."""
        session = self._sessions.get(turn.session_id or "")
        if session is None:
            return None
        own = (facts.events[0].time_us, turn.correlation_id)
        session.open.pop(turn.correlation_id, None)
        place = bisect_left(session.settled, own)
        before = session.settled[place - 1] if place else (0, "")
        for name in session.open:
            other = self._turns.get(name)
            if other is not None:
                start_us = min(event.time_us for event in other.events.values())
                if before < (start_us, name) < own:
                    before = (start_us, name)
        session.settled.insert(place, own)
        if len(session.settled) > MAX_TURNS_OF_SESSION:
            del session.settled[0]
        return before[1] or None

    # -- giving out ----------------------------------------------------------------------------------------------------

    def _turn_looked_at(self, turn: Turn, facts: TurnFacts, at_ns: int, settled: bool, incomplete: bool) -> None:
        steps = [step for step in facts.steps if self._is_due(step, turn, None if settled else at_ns - self._grace_ns)]
        ends_now = settled and not turn.settled_at
        if not steps and not ends_now:
            return
        builder = SpanBuilder(turn.correlation_id, facts, self._store, at_ns)
        for step in steps:
            self._out.append(builder.step_span(step))
            if not settled:
                turn.marked.update((event.event_id, None) for event in events_of(step))
        if ends_now:
            self._out.append(builder.root_span(incomplete, self._turn_before(turn, facts)))

    @staticmethod
    def _is_due(step: Step, turn: Turn, until_ns: int | None) -> bool:
        """Whether the step's span is to be given out now: it is whole (or never will be), and has not left before."""
        if until_ns is not None and not was_recorded(step, until_ns):
            return False
        if not turn.marked and not turn.settled_at:
            return True
        return not any(event.event_id in turn.marked or event.position <= turn.settled_at for event in events_of(step))

    # -- checkpoint ----------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """See ``Projection.dump``; spans that nobody has taken yet are not part of it."""
        sessions = [[name, list(session.open), session.settled] for name, session in self._sessions.items()]
        return orjson.dumps({"position": self.position, "turns": self._turns.dump(), "sessions": sessions})

    def load(self, state: bytes) -> None:
        """See ``Projection.load``."""
        kept = orjson.loads(state)
        self.position = kept["position"]
        self._turns.load(kept["turns"], self.position)
        self._sessions.clear()
        for name, under_way, settled in kept["sessions"]:
            session = self._sessions[name] = _Session()
            session.open = dict.fromkeys(under_way)
            session.settled = [(start_us, turn) for start_us, turn in settled]
        self._out = []
