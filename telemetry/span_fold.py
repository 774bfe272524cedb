"""The spans as a fold of events: each is given out once, when it has closed and its turn has had its grace."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import orjson

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_types import EventType as T
from agent_runtime.events.store.base import EventStore
from telemetry.identity import ROOT_OPERATION, root_span_id, span_id, trace_id
from telemetry.span import Span
from telemetry.spans import HUMAN, INTERNAL, MAX_SPAN_EVENTS, SPAN_EVENTS, decision_of
from telemetry.steps import Step, TurnFacts, agent_error
from telemetry.turns import Deadlines, Turn, TurnBook

logger = logging.getLogger("agent_runtime.telemetry")

FOLD_VERSION = "spans-1"
MAX_SESSIONS = 5_000
MAX_TURNS_OF_SESSION = 64
ERROR = 2

Attributes = dict[str, Any]


class SpanFold:
    """A projection whose output is ``take()``: the spans that became due since the last call.

    Args:
        store: asked for causes in other turns, and for the events of turns that are loaded again or come late.
        deadlines: when turns are settled.
    """

    name = "spans"

    def __init__(self, store: EventStore, deadlines: Deadlines | None = None) -> None:
        self.version = f"{FOLD_VERSION}-{deadlines or Deadlines()}"
        self.position = 0
        self.negative = 0
        self.changed = False
        self._store = store
        self._recorded_ns = 0
        self._out: list[Span] = []
        self._turns = TurnBook(deadlines or Deadlines(), self._turn_looked_at, store)
        # The turns of each session by their start, to link a turn to the one before it.
        self._sessions: OrderedDict[str, dict[str, int]] = OrderedDict()

    def apply(self, events: Sequence[BaseEvent]) -> None:
        """See ``Projection.apply``."""
        turns = self._turns
        for event in events:
            if event.recorded_ns != self._recorded_ns:
                self._recorded_ns = event.recorded_ns
                turns.due(event.recorded_ns)
            try:
                if event.correlation_id is not None:
                    turns.add(event)
                    if event.session_id is not None:
                        self._note_start(event.session_id, event.correlation_id, event.time_us)
            except Exception:
                logger.exception("spans can't take event %s", event.event_id)
            self.position = event.position

    def settle(self, now_ns: int) -> None:
        """See ``Projection.settle``."""
        self._recorded_ns = max(self._recorded_ns, now_ns)
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

    def _note_start(self, session_id: str, correlation_id: str, time_us: int) -> None:
        starts = self._sessions.get(session_id)
        if starts is None:
            starts = self._sessions[session_id] = {}
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        known = starts.get(correlation_id)
        if known is None:
            self._sessions.move_to_end(session_id)
            if len(starts) >= MAX_TURNS_OF_SESSION:
                del starts[min(starts, key=starts.__getitem__)]
        if known is None or time_us < known:
            starts[correlation_id] = time_us

    # -- building spans ------------------------------------------------------------------------------------------------

    def _turn_looked_at(self, turn: Turn, facts: TurnFacts, settled: bool, incomplete: bool) -> None:
        builder = _SpanBuilder(turn.correlation_id, facts, self._store)
        ready_before = None if settled else self._recorded_ns
        for step in facts.steps:
            name = step.first().event_id
            if name in turn.given_out or (not settled and (step.closed is None or step.opened is None)):
                continue
            if turn.settled_at and any(0 < e.position <= turn.settled_at for e in (step.opened, step.closed) if e):
                continue
            if ready_before is not None and step.closed is not None and step.closed.recorded_ns >= ready_before:
                continue
            self._out.append(builder.step_span(step))
            self.negative += step.negative
            turn.given_out.add(name)
        if settled and not turn.late:
            self._out.append(builder.root_span(incomplete, self._turn_before(turn, facts)))

    def _turn_before(self, turn: Turn, facts: TurnFacts) -> str | None:
        session_id = next((event.session_id for event in facts.events if event.session_id), None)
        starts = self._sessions.get(session_id or "", {})
        earlier = [
            (start, name) for name, start in starts.items() if start < facts.start_us and name != turn.correlation_id
        ]
        return max(earlier)[1] if earlier else None

    # -- checkpoint ----------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """See ``Projection.dump``; spans that nobody has taken yet are not part of it."""
        return orjson.dumps(
            {
                "position": self.position,
                "recorded_ns": self._recorded_ns,
                "turns": self._turns.dump(),
                "sessions": list(self._sessions.items()),
            }
        )

    def load(self, state: bytes) -> None:
        """See ``Projection.load``."""
        kept = orjson.loads(state)
        self.position = kept["position"]
        self._recorded_ns = kept["recorded_ns"]
        self._turns.load(kept["turns"], self.position)
        self._sessions = OrderedDict(kept["sessions"])
        self._out = []


class _SpanBuilder:
    """Builds the spans of one turn from its facts."""

    def __init__(self, correlation_id: str, facts: TurnFacts, store: EventStore) -> None:
        self._facts = facts
        self._store = store
        self._trace = trace_id(correlation_id)
        self._root = root_span_id(correlation_id)
        session_id = next((event.session_id for event in facts.events if event.session_id), None)
        self._common: Attributes = {"agent_runtime.correlation_id": correlation_id}
        if session_id is not None:
            self._common["session.id"] = session_id
            self._common["gen_ai.conversation.id"] = session_id
        self._correlation_id = correlation_id
        self._events: dict[Step | None, list[tuple[int, str, Attributes]]] = {}
        self._links: dict[Step | None, list[tuple[bytes, bytes, Attributes]]] = {}
        self._place_events()
        if facts.causes:
            self._place_links()

    def _place_events(self) -> None:
        for event in self._facts.events:
            keys = SPAN_EVENTS.get(event.event_type)
            if keys is None:
                continue
            attributes = {key: value for key in keys if (value := event.data.get(key)) is not None}
            attributes["agent_runtime.event_id"] = event.event_id
            entry = (event.time_us * 1000, str(event.event_type), attributes)
            self._events.setdefault(self._facts.enclosing(event), []).append(entry)

    def _place_links(self) -> None:
        """A cause in another turn becomes a link on the span that its effect opened, or else is in."""
        for event in self._facts.events:
            if event.causation_id not in self._facts.causes:
                continue
            cause = self._store.get(event.causation_id or "")
            if cause is None or cause.correlation_id in (None, self._correlation_id):
                continue
            assert cause.correlation_id is not None
            step = self._facts.step_of.get(event.event_id) or self._facts.parent(event)
            meaning = {
                "agent_runtime.link": "cause",
                "agent_runtime.cause.event_id": cause.event_id,
                "agent_runtime.cause.event_type": str(cause.event_type),
                "agent_runtime.cause.correlation_id": cause.correlation_id,
            }
            link = (trace_id(cause.correlation_id), root_span_id(cause.correlation_id), meaning)
            self._links.setdefault(step, []).append(link)

    def _id_of(self, step: Step | None) -> bytes:
        return self._root if step is None else span_id(step.first().event_id, step.row.operation)

    def step_span(self, step: Step) -> Span:
        """The span of one step; one without an end is marked incomplete."""
        row, first, closed = step.row, step.first(), step.closed
        attributes = dict(self._common)
        attributes["agent_runtime.event_id"] = first.event_id
        if row.gen_ai:
            attributes["gen_ai.operation.name"] = row.operation
        for event in (step.announced, step.opened, *step.others, closed):
            if event is not None:
                data = event.data
                for field, name, as_list in row.attributes:
                    value = data.get(field)
                    if value is not None:
                        attributes[name] = [value] if as_list else value
        if closed is None:
            attributes["agent_runtime.incomplete"] = True
        elif row is HUMAN:
            attributes["agent_runtime.approval.decision"] = decision_of(closed.event_type, closed.data.get("decision"))
        if step.announced is not None and (arguments := step.announced.data.get("arguments")):
            attributes["gen_ai.tool.call.arguments"] = orjson.dumps(arguments).decode()
        status, message = self._status(step, attributes)
        events, dropped = self._events_of(step)
        return Span(
            self._trace,
            self._id_of(step),
            self._id_of(self._facts.parent(first)),
            f"{row.operation} {first.data.get(row.subject) or 'unknown'}",
            row.kind,
            step.start_us * 1000,
            step.end_us * 1000,
            attributes,
            events,
            dropped,
            self._links_of(step, attributes),
            status,
            message,
        )

    def _status(self, step: Step, attributes: Attributes) -> tuple[int, str]:
        closed = step.closed
        if closed is None:
            return 0, ""
        if closed.event_type in (T.TOOL_EXECUTION_FAILED, T.LLM_REQUEST_FAILED):
            return ERROR, str(closed.data.get("error_message") or closed.data.get("error") or "")
        if closed.event_type == T.AGENT_PROCESSING_COMPLETED and closed.data.get("success") is False:
            attributes["error.type"] = agent_error(self._facts.events, closed.data.get("agent")) or "error"
            return ERROR, attributes["error.type"]
        return 0, ""

    def root_span(self, incomplete: bool, turn_before: str | None) -> Span:
        """The turn's own span, linked to the session's turn before it."""
        facts = self._facts
        attributes = dict(self._common)
        attributes["agent_runtime.event_id"] = facts.events[0].event_id
        attributes["gen_ai.operation.name"] = ROOT_OPERATION
        for phase, micros in facts.phases().items():
            attributes[f"agent_runtime.turn.{phase}_seconds"] = micros / 1_000_000
        error_type = "incomplete" if incomplete else facts.error_type()
        if error_type:
            attributes["error.type"] = error_type
        if incomplete:
            attributes["agent_runtime.incomplete"] = True
        if turn_before is not None:
            meaning: Attributes = {"agent_runtime.link": "turn_before"}
            self._links.setdefault(None, []).append((trace_id(turn_before), root_span_id(turn_before), meaning))
            attributes["agent_runtime.turn_before"] = turn_before
        events, dropped = self._events_of(None)
        return Span(
            self._trace,
            self._root,
            b"",
            ROOT_OPERATION,
            INTERNAL,
            facts.start_us * 1000,
            facts.end_us * 1000,
            attributes,
            events,
            dropped,
            self._links_of(None, attributes),
            ERROR if error_type and not incomplete else 0,
            error_type if not incomplete else "",
        )

    def _events_of(self, step: Step | None) -> tuple[tuple[tuple[int, str, Attributes], ...], int]:
        events = self._events.get(step, [])
        dropped = max(0, len(events) - MAX_SPAN_EVENTS)
        return tuple(events[dropped:]), dropped

    def _links_of(self, step: Step | None, attributes: Attributes) -> tuple[tuple[bytes, bytes, Attributes], ...]:
        links = self._links.get(step, ())
        for _, _, meaning in links:
            # Jaeger does not show the attributes of links, so what a link means stands on the span as well.
            if "agent_runtime.cause.correlation_id" in meaning:
                attributes.update({name: value for name, value in meaning.items() if name != "agent_runtime.link"})
        return tuple(links)
