"""The spans of one turn, built from its facts."""

from __future__ import annotations

from typing import Any

import orjson

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_types import EventType as T
from agent_runtime.events.parsing import CLASS_OF
from agent_runtime.events.store.base import EventStore
from telemetry.identity import ROOT_OPERATION, root_span_id, span_id, trace_id
from telemetry.pairing import Step
from telemetry.span import Span
from telemetry.spans import AGENT, HUMAN, INTERNAL, MAX_SPAN_EVENTS, SPAN_EVENTS, SPANS, Attribute, decision_of
from telemetry.steps import TurnFacts
from telemetry.turns import MAX_CAUSES, recorded_cause

ERROR = 2

Attributes = dict[str, Any]
SpanEvent = tuple[int, str, Attributes]
Link = tuple[bytes, bytes, Attributes]


class SpanBuilder:
    """Builds spans of one turn.

    Args:
        correlation_id: the turn's.
        facts: what is known about it.
        store: asked for causes in other turns.
        at_ns: recording time up to which they are looked for.
    """

    def __init__(self, correlation_id: str, facts: TurnFacts, store: EventStore, at_ns: int) -> None:
        self._correlation_id = correlation_id
        self._facts = facts
        self._trace = trace_id(correlation_id)
        self._root = root_span_id(correlation_id)
        self._common: Attributes = {"agent_runtime.correlation_id": correlation_id}
        session_id = next((event.session_id for event in facts.events if event.session_id is not None), None)
        if session_id is not None:
            self._common["session.id"] = session_id
            self._common["gen_ai.conversation.id"] = session_id
        facts.find_parents()
        self._events: dict[Step | None, list[SpanEvent]] = {}
        self._links: dict[Step | None, list[Link]] = {}
        self._place_events()
        if facts.causes:
            self._place_links(store, at_ns)

    def _place_events(self) -> None:
        for event in self._facts.events:
            keys = SPAN_EVENTS.get(event.event_type)
            if keys is not None:
                data = event.data
                attributes = {key: value for key in keys if (value := data.get(key)) is not None}
                attributes["agent_runtime.event_id"] = event.event_id
                entry = (event.time_us * 1000, str(event.event_type), attributes)
                self._events.setdefault(self._facts.enclosing(event), []).append(entry)

    def _place_links(self, store: EventStore, at_ns: int) -> None:
        """A cause in another turn becomes a link on the span that its effect opened, or else is in."""
        facts = self._facts
        foreign = (event for event in facts.events if event.causation_id in facts.causes)
        for event, _ in zip(foreign, range(MAX_CAUSES), strict=False):
            cause = recorded_cause(store, event.causation_id or "", at_ns)
            if cause is None or cause.correlation_id is None or cause.correlation_id == self._correlation_id:
                continue
            meaning = {
                "agent_runtime.link": "cause",
                "agent_runtime.cause.event_id": cause.event_id,
                "agent_runtime.cause.event_type": str(cause.event_type),
                "agent_runtime.cause.correlation_id": cause.correlation_id,
            }
            link = (trace_id(cause.correlation_id), root_span_id(cause.correlation_id), meaning)
            self._links.setdefault(facts.step_of.get(event.event_id), []).append(link)

    def _id_of(self, step: Step | None) -> bytes:
        if step is None:
            return self._root
        if not step.span_id:
            step.span_id = span_id(step.first.event_id, step.row.operation)
        return step.span_id

    def step_span(self, step: Step) -> Span:
        """The span of one step; one without an end is marked incomplete."""
        row, first, closed = step.row, step.first, step.closed
        attributes = self._common.copy()
        attributes["agent_runtime.event_id"] = first.event_id
        if row.gen_ai:
            attributes["gen_ai.operation.name"] = row.operation
        for event in (step.announced, step.opened, *step.others, closed):
            if event is not None:
                get = event.data.get
                for field, name, as_list in _ATTRIBUTES[event.event_type]:
                    value = get(field)
                    if value is not None:
                        attributes[name] = [value] if as_list else value
        status, message = 0, ""
        if closed is None:
            attributes["agent_runtime.incomplete"] = True
        elif row is HUMAN:
            attributes["agent_runtime.approval.decision"] = decision_of(closed.event_type, closed.data.get("decision"))
        elif closed.event_type in _FAILURES:
            status, message = ERROR, str(closed.data.get("error_message") or closed.data.get("error") or "")
        elif row is AGENT and closed.data.get("success") is False:
            status, message = ERROR, self._facts.agent_error(closed)
            attributes["error.type"] = message
        if step.announced is not None and (arguments := step.announced.data.get("arguments")):
            attributes["gen_ai.tool.call.arguments"] = orjson.dumps(arguments).decode()
        events, dropped = self._events_of(step)
        return Span(
            self._trace,
            self._id_of(step),
            self._id_of(step.parent),
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

    def root_span(self, incomplete: bool, turn_before: str | None) -> Span:
        """The turn's own span, linked to the session's turn before it."""
        facts = self._facts
        attributes = self._common.copy()
        attributes["agent_runtime.event_id"] = facts.events[0].event_id
        attributes["gen_ai.operation.name"] = ROOT_OPERATION
        for phase, micros in facts.phases().items():
            attributes[f"agent_runtime.turn.{phase}_seconds"] = micros / 1_000_000
        error_type = "" if incomplete else facts.error_type()
        if incomplete:
            attributes["agent_runtime.incomplete"] = True
            attributes["error.type"] = "incomplete"
        elif error_type:
            attributes["error.type"] = error_type
        if turn_before is not None:
            meaning = {"agent_runtime.link": "turn_before"}
            link = (trace_id(turn_before), root_span_id(turn_before), meaning)
            self._links.setdefault(None, []).append(link)
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
            ERROR if error_type else 0,
            error_type,
        )

    def _events_of(self, step: Step | None) -> tuple[tuple[SpanEvent, ...], int]:
        events = self._events.get(step)
        if events is None:
            return (), 0
        dropped = max(0, len(events) - MAX_SPAN_EVENTS)
        return tuple(events[dropped:]), dropped

    def _links_of(self, step: Step | None, attributes: Attributes) -> tuple[Link, ...]:
        links = self._links.get(step)
        if links is None:
            return ()
        for _, _, meaning in links:
            # Jaeger does not show the attributes of links, so what a link means stands on the span as well.
            if "agent_runtime.cause.correlation_id" in meaning:
                attributes.update((name, value) for name, value in meaning.items() if name != "agent_runtime.link")
        return tuple(links)


# Of each type of event the attributes that it can give: those of its row that it has a field for.
_ATTRIBUTES: dict[str, tuple[Attribute, ...]] = {
    kind: tuple(
        attribute for attribute in row.attributes if attribute.field in {field.name for field in CLASS_OF[kind].FIELDS}
    )
    for row in SPANS
    for kind in (*row.opens, *row.announces, *row.closes)
}
_FAILURES: frozenset[str] = frozenset({T.TOOL_EXECUTION_FAILED, T.LLM_REQUEST_FAILED})


def was_recorded(step: Step, until_ns: int) -> bool:
    """Whether the step has both its ends, and both had been recorded at ``until_ns``."""
    opened, closed = step.opened, step.closed
    return (
        opened is not None and closed is not None and opened.recorded_ns <= until_ns and closed.recorded_ns <= until_ns
    )


def events_of(step: Step) -> list[BaseEvent]:
    """The events that name the step or end it."""
    return [event for event in (step.opened, *step.others, step.closed) if event is not None]
