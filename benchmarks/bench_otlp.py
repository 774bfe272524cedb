"""Spans to OTLP bytes: ours against the official encoder, on the same spans (DESIGN.md's export row)."""

import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from telemetry.otlp import OtlpEncoder
from telemetry.span import Span

RESOURCE: dict[str, str] = {"service.name": "agent-runtime", "service.version": "0.1.0", "service.instance.id": "bench"}
SPANS = 512
REPEATS = 15
BAR = 0.4


def sample_span(attributes: int) -> Span:
    """A `chat` span as the span fold makes them, with the first `attributes` (at most 12) of its attributes."""
    start = time.time_ns()
    values: dict[str, str | int | float | bool | list[str]] = {
        "session.id": secrets.token_hex(16),
        "gen_ai.conversation.id": secrets.token_hex(16),
        "agent_runtime.correlation_id": secrets.token_hex(16),
        "agent_runtime.event_id": secrets.token_hex(16),
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 1_000 + secrets.randbelow(5_000),
        "gen_ai.usage.output_tokens": secrets.randbelow(500),
        "gen_ai.agent.name": "coder",
        "gen_ai.provider.name": "openai",
        "agent_runtime.llm.cost_usd": secrets.randbelow(10_000) / 1e6,
        "gen_ai.response.finish_reasons": ["stop"],
    }
    return Span(
        trace_id=secrets.token_bytes(16),
        span_id=secrets.token_bytes(8),
        parent_span_id=secrets.token_bytes(8),
        name="chat gpt-4o-mini",
        kind=3,
        start_ns=start,
        end_ns=start + 1_500_000_000,
        attributes=dict(list(values.items())[:attributes]),
        status_code=1,
    )


def official_span(span: Span, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    """The same span as the SDK's record, for the official encoder."""
    trace_id, flags = int.from_bytes(span.trace_id), TraceFlags(TraceFlags.SAMPLED)
    return ReadableSpan(
        name=span.name,
        context=SpanContext(trace_id, int.from_bytes(span.span_id), False, flags),
        parent=SpanContext(trace_id, int.from_bytes(span.parent_span_id), False, flags),
        resource=resource,
        attributes=span.attributes,
        kind=SpanKind.CLIENT,
        status=Status(StatusCode.OK),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=scope,
    )


def row(attributes: int) -> dict[str, Any]:
    """Measure one span size: medians over interleaved repeats, in microseconds a span, fresh spans each time."""
    resource, scope = Resource(RESOURCE), InstrumentationScope("agent_runtime", "0.1.0")
    ours: list[float] = []
    official: list[float] = []
    for _ in range(REPEATS):
        spans = [sample_span(attributes) for _ in range(SPANS)]
        theirs = [official_span(span, resource, scope) for span in spans]
        encoder = OtlpEncoder(RESOURCE, "agent_runtime", "0.1.0")
        ours.append(_microseconds(encoder.encode, spans))
        official.append(_microseconds(lambda records: encode_spans(records).SerializeToString(), theirs))
    ours_us, yardstick_us = statistics.median(ours), statistics.median(official)
    return {
        "work": f"export: spans with {attributes} attributes to OTLP bytes",
        "yardstick": "official encode_spans, serialised",
        "ours_us": round(ours_us, 2),
        "yardstick_us": round(yardstick_us, 2),
        "ratio": round(ours_us / yardstick_us, 3),
        "bar": BAR,
    }


def rows() -> list[dict[str, Any]]:
    """All rows of this benchmark; times in microseconds a span."""
    return [row(attributes) for attributes in (8, 12)]


def _microseconds(encode: Callable[[Any], bytes], spans: Sequence[Any]) -> float:
    start = time.perf_counter_ns()
    encode(spans)
    return (time.perf_counter_ns() - start) / 1_000 / len(spans)


if __name__ == "__main__":
    for result in rows():
        print(result)
