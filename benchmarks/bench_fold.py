"""One event all in: built, published, folded into metrics, its span recorded; beside what a program does without us.

The stream is of whole turns: an agent, two model calls, a tool call, two messages; 11 events, 5 spans. The yardsticks
do the same work for the same turns, in the same run, and know already what we work out: which span is whose parent, and
how a turn's time divides. Times are of the processor: the machine is shared.
"""

import asyncio
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import prometheus_client
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict, Field

from agent_runtime.events.agent_events import AgentProcessingCompletedEvent, AgentProcessingStartedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import new_correlation_id, random_bits
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.llm_events import LLMRequestCompletedEvent, LLMRequestStartedEvent
from agent_runtime.events.session_events import MessageAddedEvent
from agent_runtime.events.tool_events import (
    ToolExecutionCompletedEvent,
    ToolExecutionRequestedEvent,
    ToolExecutionStartedEvent,
)
from telemetry.metrics import AGENT_BUCKETS, CALL_BUCKETS, WORKFLOW_BUCKETS
from telemetry.metrics_fold import MetricsFold
from telemetry.prices import Prices
from telemetry.span_fold import SpanFold
from telemetry.turns import Deadlines, SharedFacts

BAR = 0.7
ROUNDS = 15
TURNS = 150
EVENTS_OF_A_TURN = 11
CHUNK = 500
GROWTH = 1_000_000
GROWTH_BAR = 1.2
NOTE = (
    "to build an event and check each of its values costs more than a pydantic model that checks none of its data, and "
    "with publishing already as much as the bar; what the folds work out, the yardstick's program knows already."
)
# Short, so that turns are settled while the stream runs.
DEADLINES = Deadlines(grace=5_000_000)
ERRORS = ""
PHASES = ("model", "tool", "human", "runtime")


class Ours:
    """The bus over the store in memory, and both folds behind it."""

    def __init__(self) -> None:
        self.bus = EventBus()
        shared = SharedFacts()
        self.metrics = MetricsFold(self.bus.store, DEADLINES, prices=Prices(), shared=shared)
        self.spans = SpanFold(self.bus.store, DEADLINES, shared)
        self.made = 0
        self.fold_ns = 0
        self._pending: list[BaseEvent] = []

    async def turns(self, count: int) -> None:
        """Publish and fold so many turns."""
        for number in range(count):
            await self._turn(f"session-{number % 100}")
        self._fold()

    async def _turn(self, session: str) -> None:
        turn: dict[str, Any] = {"session_id": session, "correlation_id": new_correlation_id()}
        call: dict[str, Any] = {"tool_name": "read_file", "call_id": f"call-{random_bits(40)}"}
        message = await self._tell(MessageAddedEvent(role="user", content_length=80, source="sessions", **turn))
        agent = await self._tell(
            AgentProcessingStartedEvent(
                agent_type="coder", message="fix it", causation_id=message, source="coder", **turn
            )
        )
        answer = await self._ask(turn, agent)
        request = await self._tell(
            ToolExecutionRequestedEvent(arguments={"path": "a.py"}, agent="coder", causation_id=answer, **call, **turn)
        )
        started = await self._tell(ToolExecutionStartedEvent(causation_id=request, source="tools", **call, **turn))
        done = await self._tell(
            ToolExecutionCompletedEvent(duration_ms=48.5, result_length=300, causation_id=started, **call, **turn)
        )
        answer = await self._ask(turn, done)
        await self._tell(MessageAddedEvent(role="assistant", content_length=200, causation_id=answer, **turn))
        await self._tell(
            AgentProcessingCompletedEvent(agent_type="coder", duration_ms=2900.0, causation_id=agent, **turn)
        )

    async def _ask(self, turn: dict[str, Any], cause: str) -> str:
        request = f"request-{random_bits(40)}"
        began = await self._tell(
            LLMRequestStartedEvent(
                model="gpt-4o",
                provider="openai",
                messages_count=3,
                tools_count=8,
                request_id=request,
                agent="coder",
                causation_id=cause,
                source="llm",
                **turn,
            )
        )
        return await self._tell(
            LLMRequestCompletedEvent(
                model="gpt-4o",
                duration_ms=1400.0,
                prompt_tokens=1500,
                completion_tokens=60,
                total_tokens=1560,
                request_id=request,
                time_to_first_chunk_ms=350.0,
                finish_reason="stop",
                agent="coder",
                causation_id=began,
                source="llm",
                **turn,
            )
        )

    async def _tell(self, event: BaseEvent) -> str:
        await self.bus.publish(event)
        self._pending.append(event)
        if len(self._pending) >= CHUNK:
            self._fold()
        return event.event_id

    def _fold(self) -> None:
        began = time.process_time_ns()
        self.metrics.apply(self._pending)
        self.spans.apply(self._pending)
        self.made += len(self.spans.take())
        self.fold_ns += time.process_time_ns() - began
        self._pending = []


class PlainEvent(BaseModel):
    """An event as programs model it."""

    model_config = ConfigDict(frozen=True)

    event_id: str = Field(default_factory=lambda: str(uuid.uuid4()))
    event_type: str
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))
    session_id: str
    correlation_id: str
    causation_id: str | None = None
    data: dict[str, Any] = {}


# What each metric is called, its labels, and its buckets (none: a counter or gauge).
METRICS: dict[str, tuple[tuple[str, ...], Sequence[float]]] = {
    "events": (("event_type",), ()),
    "messages": (("role",), ()),
    "requests": (("tool", "agent"), ()),
    "input": (("model", "provider", "agent"), ()),
    "output": (("model", "provider", "agent"), ()),
    "cached": (("model", "provider", "agent"), ()),
    "cost": (("model", "provider", "agent"), ()),
    "phases": (("phase",), ()),
    "active": (("agent",), ()),
    "agent": (("agent", "error_type"), AGENT_BUCKETS),
    "tool": (("tool", "error_type"), CALL_BUCKETS),
    "model": (("model", "provider", "error_type"), CALL_BUCKETS),
    "first_chunk": (("model", "provider", "error_type"), CALL_BUCKETS),
    "turn": (("error_type",), WORKFLOW_BUCKETS),
}


class Instrumented:
    """A program's own calls at each point of a turn; how it counts and makes spans is the subclasses' part."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self._prices = Prices()

    def add(self, name: str, amount: float, *labels: str) -> None:
        """Add to a counter or gauge."""
        raise NotImplementedError

    def observe(self, name: str, seconds: float, trace: int, span: int, *labels: str) -> None:
        """Observe a duration, with the span as its exemplar where that can be."""
        raise NotImplementedError

    def span(self, name: str, trace: int, span: int, parent: int, attributes: dict[str, Any]) -> None:
        """Record a finished span."""
        raise NotImplementedError

    def turns(self, count: int) -> None:
        """Do the work of so many turns."""
        for number in range(count):
            self._turn(f"session-{number % 100}")
        self.spans.clear()

    def _event(self, turn: dict[str, Any], kind: str, cause: str | None, **data: Any) -> str:
        event = PlainEvent(event_type=kind, causation_id=cause, data=data, **turn)
        self.add("events", 1, kind)
        return event.event_id

    def _turn(self, session: str) -> None:
        trace, root, agent_span, tool_span = random_bits(128), random_bits(64), random_bits(64), random_bits(64)
        turn = {"session_id": session, "correlation_id": f"{trace:032x}"}
        call = {"tool_name": "read_file", "call_id": f"call-{random_bits(40)}"}
        message = self._event(turn, "message_added", None, role="user", content_length=80)
        self.add("messages", 1, "user")
        agent = self._event(turn, "agent_processing_started", message, agent="coder", message_length=6)
        self.add("active", 1, "coder")
        answer = self._ask(turn, agent, trace, agent_span)
        request = self._event(turn, "tool_execution_requested", answer, **call, arguments={"path": "a.py"})
        self.add("requests", 1, "read_file", "coder")
        started = self._event(turn, "tool_execution_started", request, **call)
        done = self._event(turn, "tool_execution_completed", started, **call, duration_ms=48.5, result_length=300)
        self.observe("tool", 0.0485, trace, tool_span, "read_file", ERRORS)
        attributes = {"gen_ai.tool.name": "read_file", "gen_ai.tool.call.id": call["call_id"]}
        self._span("execute_tool read_file", trace, tool_span, agent_span, turn, done, attributes)
        answer = self._ask(turn, done, trace, agent_span)
        self._event(turn, "message_added", answer, role="assistant", content_length=200)
        self.add("messages", 1, "assistant")
        self._event(turn, "agent_processing_completed", agent, agent="coder", duration_ms=2900.0, success=True)
        self.add("active", -1, "coder")
        self.observe("agent", 2.9, trace, agent_span, "coder", ERRORS)
        self._span("invoke_agent coder", trace, agent_span, root, turn, agent, {"gen_ai.agent.name": "coder"})
        self.observe("turn", 2.9, trace, root, ERRORS)
        for phase in PHASES:
            self.add("phases", 0.5, phase)
        self._span("invoke_workflow", trace, root, 0, turn, message, dict.fromkeys(PHASES, 0.5))

    def _ask(self, turn: dict[str, Any], cause: str, trace: int, agent_span: int) -> str:
        request, span = f"request-{random_bits(40)}", random_bits(64)
        began = self._event(turn, "llm_request_started", cause, model="gpt-4o", provider="openai", request_id=request)
        end = self._event(
            turn,
            "llm_request_completed",
            began,
            model="gpt-4o",
            request_id=request,
            duration_ms=1400.0,
            prompt_tokens=1500,
            completion_tokens=60,
            time_to_first_chunk_ms=350.0,
            finish_reason="stop",
        )
        self.observe("model", 1.4, trace, span, "gpt-4o", "openai", ERRORS)
        self.observe("first_chunk", 0.35, trace, span, "gpt-4o", "openai", ERRORS)
        cost = self._prices.cost_nanodollars("gpt-4o", "openai", 1500, 60, 0, 1_793_620_800_000_000)
        for name, amount in (("input", 1500), ("output", 60), ("cached", 0), ("cost", cost / 1e9)):
            self.add(name, amount, "gpt-4o", "openai", "coder")
        attributes = {
            "gen_ai.request.model": "gpt-4o", "gen_ai.provider.name": "openai", "gen_ai.agent.name": "coder",
            "gen_ai.usage.input_tokens": 1500, "gen_ai.usage.output_tokens": 60,
            "gen_ai.response.finish_reasons": ["stop"], "request.id": request,
        }  # fmt: skip
        self._span("chat gpt-4o", trace, span, agent_span, turn, began, attributes)
        return end

    def _span(
        self,
        name: str,
        trace: int,
        span: int,
        parent: int,
        turn: dict[str, Any],
        event: str,
        attributes: dict[str, Any],
    ) -> None:
        common = {"session.id": turn["session_id"], "correlation_id": turn["correlation_id"], "event_id": event}
        self.span(name, trace, span, parent, {"gen_ai.operation.name": name.split()[0], **common, **attributes})


class Plain(Instrumented):
    """prometheus_client children found once, spans built directly: as lean as plain calls can be."""

    def __init__(self) -> None:
        super().__init__()
        self._metrics = _prometheus()
        self._children: dict[tuple[str, ...], Any] = {}
        self._resource = Resource.create()

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        child = self._children.get((name, *labels))
        if child is None:
            child = self._children[name, *labels] = self._metrics[name].labels(*labels)
        return child

    def add(self, name: str, amount: float, *labels: str) -> None:
        """See ``Instrumented``."""
        self._child(name, labels).inc(amount)

    def observe(self, name: str, seconds: float, trace: int, span: int, *labels: str) -> None:
        """See ``Instrumented``."""
        self._child(name, labels).observe(seconds, {"trace_id": f"{trace:032x}", "span_id": f"{span:016x}"})

    def span(self, name: str, trace: int, span: int, parent: int, attributes: dict[str, Any]) -> None:
        """See ``Instrumented``."""
        now = time.time_ns()
        sampled = TraceFlags(TraceFlags.SAMPLED)
        self.spans.append(
            ReadableSpan(
                name,
                SpanContext(trace, span, False, sampled),
                SpanContext(trace, parent, False, sampled) if parent else None,
                self._resource,
                attributes,
                kind=SpanKind.CLIENT,
                status=Status(StatusCode.UNSET),
                start_time=now - 1_000_000,
                end_time=now,
            )
        )


class AsWritten(Instrumented):
    """``labels()`` at each call and the SDK's spans: as most programs are written."""

    def __init__(self) -> None:
        super().__init__()
        self._metrics = _prometheus()
        self._tracer = TracerProvider().get_tracer("bench")

    def add(self, name: str, amount: float, *labels: str) -> None:
        """See ``Instrumented``."""
        self._metrics[name].labels(**dict(zip(METRICS[name][0], labels, strict=True))).inc(amount)

    def observe(self, name: str, seconds: float, trace: int, span: int, *labels: str) -> None:
        """See ``Instrumented``."""
        child = self._metrics[name].labels(**dict(zip(METRICS[name][0], labels, strict=True)))
        child.observe(seconds, {"trace_id": f"{trace:032x}", "span_id": f"{span:016x}"})

    def span(self, name: str, trace: int, span: int, parent: int, attributes: dict[str, Any]) -> None:
        """See ``Instrumented``; eight of the attributes."""
        above = self.spans[-1] if self.spans and parent else None
        started = self._tracer.start_span(name, set_span_in_context(above) if above else None, SpanKind.CLIENT)
        for key, value in list(attributes.items())[:8]:
            started.set_attribute(key, value)
        started.end()
        self.spans.append(started)


class OpenTelemetry(AsWritten):
    """OpenTelemetry's metrics and spans."""

    def __init__(self) -> None:
        super().__init__()
        meter: Meter = MeterProvider().get_meter("bench")
        self._instruments = {
            name: meter.create_histogram(name, explicit_bucket_boundaries_advisory=list(buckets))
            if buckets
            else meter.create_up_down_counter(name)
            for name, (_, buckets) in METRICS.items()
        }

    def add(self, name: str, amount: float, *labels: str) -> None:
        """See ``Instrumented``."""
        self._instruments[name].add(amount, dict(zip(METRICS[name][0], labels, strict=True)))  # type: ignore[union-attr]

    def observe(self, name: str, seconds: float, trace: int, span: int, *labels: str) -> None:
        """See ``Instrumented``."""
        self._instruments[name].record(seconds, dict(zip(METRICS[name][0], labels, strict=True)))  # type: ignore[union-attr]


def _prometheus() -> dict[str, Any]:
    prometheus_client.disable_created_metrics()
    registry = CollectorRegistry()
    made: dict[str, Any] = {}
    for name, (labels, buckets) in METRICS.items():
        if buckets:
            made[name] = prometheus_client.Histogram(name, "A duration.", labels, buckets=buckets, registry=registry)
        else:
            kind = prometheus_client.Gauge if name == "active" else prometheus_client.Counter
            made[name] = kind(name, "A count.", labels, registry=registry)
    return made


def rows(growth: int = GROWTH) -> list[dict[str, Any]]:
    """Returns a row per yardstick, and one for the cost as it grows; times in µs an event, medians.

    Args:
        growth: how many events the last row goes up to.
    """
    return asyncio.run(_measure(growth))


async def _measure(growth: int) -> list[dict[str, Any]]:
    ours = Ours()
    others: dict[str, Instrumented] = {
        "plain calls: prometheus_client children, ReadableSpan, no bus": Plain(),
        "as people write it: labels(), SDK span with 8 attributes": AsWritten(),
        "OpenTelemetry metrics and SDK span": OpenTelemetry(),
    }
    times: dict[str, list[float]] = {name: [] for name in ("", *others)}
    folds: list[float] = []
    for _ in range(ROUNDS + 1):
        before = ours.fold_ns
        began = time.process_time_ns()
        await ours.turns(TURNS)
        times[""].append(_per_event(began))
        folds.append((ours.fold_ns - before) / 1000 / (TURNS * EVENTS_OF_A_TURN))
        for name, other in others.items():
            began = time.process_time_ns()
            other.turns(TURNS)
            times[name].append(_per_event(began))
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    found = [
        _row("one event all in: build, publish, metrics fold, span record", name, medians[""], medians[name])
        for name in others
    ]
    plain = next(iter(others))
    part = _row(
        "of that, both folds without building and publishing", plain, statistics.median(folds[1:]), medians[plain]
    )
    found[0]["note"] = NOTE
    for row in (*found[1:], part):
        row["bar"] = None
    return [*found, part, await _growth(growth)]


async def _growth(growth: int) -> dict[str, Any]:
    """What folding an event costs in the first 10,000 and in the last."""
    ours = Ours()
    part = min(10_000, growth // 4)
    turns = part // EVENTS_OF_A_TURN
    await ours.turns(turns)
    costs: list[float] = []
    for _ in range(growth // part - 1):
        before = ours.fold_ns
        await ours.turns(turns)
        costs.append((ours.fold_ns - before) / 1000 / (turns * EVENTS_OF_A_TURN))
    few = max(1, len(costs) // 20)
    row = _row(
        f"cost as it grows: folding an event after {growth:,}",
        f"the same after {part:,}",
        statistics.median(costs[-few:]),
        statistics.median(costs[:few]),
    )
    return {**row, "bar": GROWTH_BAR}


def _per_event(began_ns: int) -> float:
    return (time.process_time_ns() - began_ns) / 1000 / (TURNS * EVENTS_OF_A_TURN)


def _row(work: str, yardstick: str, ours_us: float, yardstick_us: float) -> dict[str, Any]:
    return {
        "work": work,
        "yardstick": yardstick,
        "ours_us": round(ours_us, 2),
        "yardstick_us": round(yardstick_us, 2),
        "ratio": round(ours_us / yardstick_us, 3),
        "bar": BAR,
    }


if __name__ == "__main__":
    for result in rows(*map(int, sys.argv[1:])):
        print(result)
