"""What the tests of the folds share: the real events, random turns, stores with chosen recording times."""

import gzip
import json
import random
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.events.agent_events import (
    AgentErrorOccurredEvent,
    AgentProcessingCompletedEvent,
    AgentProcessingStartedEvent,
    AgentSwitchedEvent,
)
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.llm_events import LLMRequestCompletedEvent, LLMRequestFailedEvent, LLMRequestStartedEvent
from agent_runtime.events.parsing import parse_event
from agent_runtime.events.session_events import MessageAddedEvent
from agent_runtime.events.store.base import EventStore
from agent_runtime.events.store.clock import RecordingClock
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.store.sqlite import SqliteStore
from agent_runtime.events.system_events import SystemStartupEvent
from agent_runtime.events.tool_events import (
    HITLApprovalRequestedEvent,
    HITLDecisionMadeEvent,
    HITLTimeoutOccurredEvent,
    ToolApprovalRequiredEvent,
    ToolExecutionCompletedEvent,
    ToolExecutionFailedEvent,
    ToolExecutionRequestedEvent,
    ToolExecutionStartedEvent,
)
from telemetry.metrics_fold import MetricsFold
from telemetry.prices import Prices
from telemetry.span import Span
from telemetry.span_fold import SpanFold
from telemetry.turns import NS, SERVICE, Deadlines

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
SAMPLES = REPOSITORY / "agent_runtime" / "sample"
PRICES = Prices()
START = datetime(2026, 11, 2, 8, tzinfo=UTC)
NOON_NS = 1_793_620_800 * NS  # the first event is recorded here
FOREVER_NS = 2**62


def real_lines() -> list[bytes]:
    """The recorded sessions as JSON lines, from beside the repository or, in part, from the package."""
    whole = DATA / "tau_airline_events.jsonl.gz"
    found = whole if whole.exists() else next(iter(sorted(SAMPLES.glob("*.jsonl.gz"))), None)
    if found is None:
        pytest.skip("no recorded sessions: neither the shared data nor the packaged sample is here")
    return gzip.decompress(found.read_bytes()).splitlines()


def truth() -> dict[str, Any]:
    """What the whole file must come to."""
    path = DATA / "tau_airline_truth.json"
    if not path.exists():
        pytest.skip("the shared data is not here")
    counts: dict[str, Any] = json.loads(path.read_text())
    return counts


def copies(events: Iterable[BaseEvent]) -> list[BaseEvent]:
    """Equal events that no store has seen."""
    return [parse_event(event.to_json()) for event in events]


def memory(
    events: Sequence[BaseEvent], batch: int = 100, step_ns: int = 1_000_000, start_ns: int = NOON_NS
) -> MemoryStore:
    """A store that took copies of ``events`` in batches, one every ``step_ns``."""
    store = MemoryStore()
    append(store, events, batch, step_ns, start_ns)
    return store


def append(
    store: MemoryStore,
    events: Sequence[BaseEvent],
    batch: int = 100,
    step_ns: int = 1_000_000,
    start_ns: int = NOON_NS,
) -> None:
    """Add copies of ``events`` to ``store`` in batches, recorded at ``start_ns`` and every ``step_ns`` after it."""
    for number, first in enumerate(range(0, len(events), batch)):
        fresh = copies(events[first : first + batch])
        store.append(fresh)
        for event in fresh:
            event.recorded_ns = start_ns + number * step_ns


class SetClock(RecordingClock):
    """A store's clock that a test sets."""

    now_ns = NOON_NS

    def begin(self) -> int:
        """The time that was set."""
        return self.now_ns


class ClockedStore(SqliteStore):
    """A SQLite store whose recording times a test sets: ``clock.now_ns``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, synchronous="NORMAL")
        self.clock = self._clock = SetClock(0, self._last)


def folded(
    store: EventStore,
    deadlines: Deadlines | None = None,
    chunk: int = 500,
    settle_ns: int = FOREVER_NS,
) -> tuple[MetricsFold, list[Span]]:
    """Both folds of everything in ``store``, and the spans."""
    metrics = MetricsFold(store, deadlines, prices=PRICES)
    spans = SpanFold(store, deadlines)
    while events := store.read(metrics.position, chunk):
        metrics.apply(events)
        spans.apply(events)
    metrics.settle(settle_ns)
    spans.settle(settle_ns)
    return metrics, spans.take()


def series(fold: MetricsFold) -> dict[tuple[str, tuple[str, ...]], Any]:
    """Every series that is not zero by metric and labels, without exemplars."""
    found: dict[tuple[str, tuple[str, ...]], Any] = {}
    for family in fold.families():
        for one in family.series:
            value = one.value if hasattr(one, "value") else (tuple(one.counts), one.sum)
            if value and value != ((0,) * 15, 0.0):
                found[family.metric.name, one.labels] = value
    return found


def total(fold: MetricsFold, name: str, **labels: str) -> Any:
    """The sum of a counter, or the number of observations of a histogram, over the series with these labels."""
    family = next(family for family in fold.families() if family.metric.name == name)
    wanted = [(family.metric.labels.index(label), value) for label, value in labels.items()]
    chosen = [one for one in family.series if all(one.labels[index] == value for index, value in wanted)]
    return sum(one.value if hasattr(one, "value") else sum(one.counts) for one in chosen)


def by_id(spans: Iterable[Span]) -> dict[bytes, Span]:
    """Spans by their ids, each of which there may be once."""
    spans = list(spans)
    found = {span.span_id: span for span in spans}
    assert len(spans) == len(found)
    return found


def named(spans: Iterable[Span], operation: str) -> list[Span]:
    """The spans of one operation, by start."""
    return sorted((span for span in spans if span.name.split()[0] == operation), key=lambda span: span.start_ns)


class Script:
    """Writes down the events of one turn.

    ``tell(kind, cause, **keys)`` appends an event at the present time; ``wait(seconds)`` moves it, also backwards.
    """

    def __init__(self, correlation_id: str | None, session_id: str | None = "s-1", seed: object = 0) -> None:
        self.events: list[BaseEvent] = []
        self.correlation_id = correlation_id
        self.session_id = session_id
        self.time = START
        self._random = random.Random(f"{correlation_id} {session_id} {seed}")

    def tell(self, kind: type[BaseEvent], cause: BaseEvent | str | None = None, **keys: Any) -> BaseEvent:
        """Append an event of that class; its cause is an event or an id."""
        event = kind(
            session_id=self.session_id,
            correlation_id=self.correlation_id,
            causation_id=cause.event_id if isinstance(cause, BaseEvent) else cause,
            timestamp=self.time,
            event_id=str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            **keys,
        )
        self.events.append(event)
        return event

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.time += timedelta(microseconds=round(seconds * 1_000_000))


def plain_turn(correlation_id: str = "a" * 32, session_id: str = "s-1", decided: bool = True) -> Script:
    """A turn of one agent: a model call, an approved tool call, an answer."""
    turn = Script(correlation_id, session_id)
    message = turn.tell(MessageAddedEvent, role="user", content_length=3)
    agent = turn.tell(AgentProcessingStartedEvent, message, agent_type="coder", message="fix")
    turn.wait(1)
    call = turn.tell(LLMRequestStartedEvent, agent, model="gpt-4o", provider="openai", request_id="r-1")
    turn.wait(2)
    answer = turn.tell(LLMRequestCompletedEvent, call, model="gpt-4o", duration_ms=2000.0, request_id="r-1")
    tool: dict[str, Any] = {"tool_name": "write_file", "call_id": "c-1"}
    request = turn.tell(ToolExecutionRequestedEvent, answer, arguments={}, agent="coder", **tool)
    asked = turn.tell(ToolApprovalRequiredEvent, request, arguments={}, **tool)
    if decided:
        finish_turn(turn, asked, agent, wait=60)
    return turn


def finish_turn(turn: Script, asked: BaseEvent, agent: BaseEvent, wait: float) -> None:
    """The rest of ``plain_turn``: the decision after ``wait`` seconds, the tool, the end."""
    tool: dict[str, Any] = {"tool_name": "write_file", "call_id": "c-1"}
    turn.wait(wait)
    decision = turn.tell(HITLDecisionMadeEvent, asked, decision="Approve", **tool)
    started = turn.tell(ToolExecutionStartedEvent, decision, **tool)
    turn.wait(0.5)
    turn.tell(ToolExecutionCompletedEvent, started, duration_ms=500.0, **tool)
    turn.wait(1)
    turn.tell(AgentProcessingCompletedEvent, agent, agent_type="coder", duration_ms=4500.0 + wait * 1000)


class RandomTurn(Script):
    """A turn with everything that happens to turns, drawn from ``rng``.

    Args:
        foreign: an event id of another turn, which some events may name as their cause.
    """

    def __init__(self, rng: random.Random, name: str, session_id: str | None, foreign: str | None = None) -> None:
        super().__init__(rng.choice([name, uuid.UUID(int=rng.getrandbits(128)).hex]), session_id, rng.random())
        self._rng = rng
        self._foreign = foreign
        self.time += timedelta(seconds=rng.randrange(100))
        message = self.tell(MessageAddedEvent, self._cause(None), role="user", content_length=1)
        self._run("orchestrator", message, depth=0)
        if rng.random() < 0.2:
            self._break_up()

    def _pause(self) -> None:
        rng = self._rng
        self.wait(rng.choice([0, 0, 0, 0.000001, 0.25, rng.random() * 3, -0.5 if rng.random() < 0.2 else 1]))

    def _cause(self, cause: BaseEvent | None) -> BaseEvent | str | None:
        chance = self._rng.random()
        if chance < 0.04:
            return None
        if chance < 0.06:
            return str(uuid.UUID(int=self._rng.getrandbits(128)))
        return self._foreign if chance < 0.1 and self._foreign else cause

    def _run(self, agent: str, cause: BaseEvent, depth: int) -> None:
        rng = self._rng
        began = self.tell(AgentProcessingStartedEvent, self._cause(cause), agent_type=agent, message="m")
        last = began
        for _ in range(rng.randrange(3)):
            self._pause()
            last = self._ask_model(agent, last)
            last = self._call_tools(agent, last)
            if depth < 2 and rng.random() < 0.3:
                other = rng.choice(["coder", "debug", agent])
                switch = self.tell(AgentSwitchedEvent, self._cause(last), from_agent=agent, to_agent=other)
                self._run(other, switch, depth + 1)
        self._pause()
        failed = rng.random() < 0.2
        error: dict[str, Any] = {"agent_type": agent, "error_message": "no", "error_type": f"E{rng.randrange(3)}"}
        if failed and rng.random() < 0.6:
            last = self.tell(AgentErrorOccurredEvent, self._cause(last), **error)
        duration = rng.randrange(10_000_000) / 1000
        end = rng.choice([began, last])
        self.tell(
            AgentProcessingCompletedEvent, self._cause(end), agent_type=agent, duration_ms=duration, success=not failed
        )
        if failed and rng.random() < 0.3:
            self._pause()
            self.tell(AgentErrorOccurredEvent, self._cause(last), **error)

    def _ask_model(self, agent: str, cause: BaseEvent) -> BaseEvent:
        rng = self._rng
        model = rng.choice(["gpt-4o", "gpt-4o-mini", "local"])
        request = rng.choice([None, f"r-{rng.randrange(4)}"])
        began = self.tell(
            LLMRequestStartedEvent, self._cause(cause), model=model, request_id=request, provider="openai", agent=agent
        )
        self._pause()
        if rng.random() < 0.2:
            duration = rng.choice([None, 3.25])
            return self.tell(
                LLMRequestFailedEvent,
                self._cause(began),
                model=model,
                error="busy",
                error_type="RateLimit",
                duration_ms=duration,
                request_id=request,
            )
        usage = {"prompt_tokens": rng.randrange(1000), "completion_tokens": rng.randrange(100)}
        return self.tell(
            LLMRequestCompletedEvent,
            self._cause(began),
            model=model,
            duration_ms=rng.randrange(5000) / 4,
            request_id=request,
            agent=rng.choice([agent, None]),
            **usage,
        )

    def _call_tools(self, agent: str, cause: BaseEvent) -> BaseEvent:
        rng = self._rng
        last = cause
        begun: list[tuple[BaseEvent, dict[str, Any]]] = []
        for _ in range(rng.randrange(3)):
            call: dict[str, Any] = {
                "tool_name": rng.choice(["read_file", "write_file"]),
                "call_id": f"call-{rng.randrange(3)}",
            }
            last = self.tell(ToolExecutionRequestedEvent, self._cause(cause), arguments={"a": 1}, agent=agent, **call)
            if rng.random() < 0.4:
                last = self._approve(last, call)
            begun.append((self.tell(ToolExecutionStartedEvent, self._cause(last), **call), call))
        for began, call in begun:
            self._pause()
            if rng.random() < 0.3:
                ended = {"error_message": "no", "error_type": "IOError", "duration_ms": rng.choice([None, 7.5])}
                last = self.tell(ToolExecutionFailedEvent, self._cause(began), **ended, **call)
            else:
                last = self.tell(ToolExecutionCompletedEvent, self._cause(began), duration_ms=12.5, **call)
        return last

    def _approve(self, request: BaseEvent, call: dict[str, Any]) -> BaseEvent:
        rng = self._rng
        kinds = rng.choice(
            [
                [ToolApprovalRequiredEvent],
                [ToolApprovalRequiredEvent, HITLApprovalRequestedEvent],
                [HITLApprovalRequestedEvent],
            ]
        )
        asked = [self.tell(kind, self._cause(request), arguments={}, **call) for kind in kinds]
        self._pause()
        chance = rng.random()
        if chance < 0.1:
            return asked[-1]
        if chance < 0.2:
            return self.tell(HITLTimeoutOccurredEvent, self._cause(asked[-1]), timeout_seconds=300, **call)
        for _ in range(1 + (rng.random() < 0.1)):
            decision = rng.choice(["APPROVE", "reject", "Edit"])
            last = self.tell(HITLDecisionMadeEvent, self._cause(asked[-1]), decision=decision, **call)
        return last

    def _break_up(self) -> None:
        """Lose an event, or make two events each other's cause."""
        rng, events = self._rng, self.events
        if rng.random() < 0.7:
            del events[rng.randrange(len(events))]
        elif len(events) > 2:
            one, other = rng.sample(events, 2)
            one.causation_id, other.causation_id = other.event_id, one.event_id


def random_turns(rng: random.Random, count: int = 4) -> list[BaseEvent]:
    """The events of several turns of two sessions and some without a turn, in the order of their times."""
    events: list[BaseEvent] = []
    for number in range(count):
        foreign = rng.choice(events).event_id if events else None
        turn = RandomTurn(rng, f"turn {number}", rng.choice(["s-1", "s-1", "s-2", None]), foreign)
        events += turn.events
    loose = Script(None, rng.choice(["s-1", None]), rng.random())
    call: dict[str, Any] = {"tool_name": "echo", "call_id": "c"}
    loose.tell(ToolExecutionRequestedEvent, arguments={}, **call)
    loose.tell(ToolApprovalRequiredEvent, arguments={}, **call)
    loose.tell(HITLDecisionMadeEvent, decision="approve", **call)
    loose.tell(ToolExecutionFailedEvent, error_message="no", error_type="E", **call)
    loose.tell(LLMRequestCompletedEvent, model="gpt-4o", duration_ms=1.0)
    return sorted([*events, *loose.events], key=lambda event: event.time_us)


def with_restarts(rng: random.Random, events: list[BaseEvent]) -> list[BaseEvent]:
    """The events in random order, with a start of the service now and then."""
    starts = Script(None, None, rng.random())
    for _ in range(rng.randrange(3)):
        starts.tell(SystemStartupEvent, version="1", source=SERVICE)
    mixed = [*events, *starts.events]
    rng.shuffle(mixed)
    return mixed
