import math
import struct
from enum import Enum
from itertools import zip_longest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind
from opentelemetry.trace.status import Status, StatusCode

from telemetry.otlp import MAX_BYTES, MAX_SPANS, OtlpEncoder, encode_span
from telemetry.span import Attributes, Span

KINDS = {1: SpanKind.INTERNAL, 2: SpanKind.SERVER, 3: SpanKind.CLIENT}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([-(2**63), 2**63 - 1, -1, 0, 127, 128]),
    st.floats(),
    st.lists(TEXTS, max_size=4),
)
ATTRIBUTES = st.dictionaries(TEXTS, VALUES, max_size=5)
TRACE_IDS = st.binary(min_size=16, max_size=16)
SPAN_IDS = st.binary(min_size=8, max_size=8)
TIMES = st.integers(0, 2**64 - 1)
STATUSES = st.one_of(st.sampled_from([(0, ""), (1, "")]), st.tuples(st.just(2), TEXTS))
SPANS = st.builds(
    lambda status, *fields: Span(*fields, *status),
    STATUSES,
    TRACE_IDS,
    SPAN_IDS,
    st.one_of(st.just(b""), SPAN_IDS),
    TEXTS,
    st.sampled_from(sorted(KINDS)),
    TIMES,
    TIMES,
    ATTRIBUTES,
    st.lists(st.tuples(TIMES, TEXTS, ATTRIBUTES), max_size=3).map(tuple),
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(TRACE_IDS, SPAN_IDS, ATTRIBUTES), max_size=3).map(tuple),
)


def context(trace_id: bytes, span_id: bytes) -> SpanContext:
    """The SDK's name of a span in this process."""
    return SpanContext(int.from_bytes(trace_id), int.from_bytes(span_id), is_remote=False)


def readable(span: Span, resource: Attributes, scope: InstrumentationScope) -> ReadableSpan:
    """The SDK's record of the same span."""
    events: BoundedList[Event] = BoundedList(128)
    events.extend([Event(name, details, time_ns) for time_ns, name, details in span.events])
    events.dropped = span.dropped_events
    return ReadableSpan(
        name=span.name,
        context=context(span.trace_id, span.span_id),
        parent=context(span.trace_id, span.parent_span_id) if span.parent_span_id else None,
        resource=Resource(resource),
        attributes=span.attributes,
        events=events,
        links=[Link(context(trace_id, span_id), details) for trace_id, span_id, details in span.links],
        kind=KINDS[span.kind],
        status=Status(StatusCode(span.status_code), span.status_message or None),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=scope,
    )


def canonical(request: ExportTraceServiceRequest) -> bytes:
    """A message as bytes that are equal exactly if the messages are, NaN and unknown fields included."""
    return request.SerializeToString(deterministic=True)


def decoded(body: bytes) -> ExportTraceServiceRequest:
    """The message that a body holds."""
    return ExportTraceServiceRequest.FromString(body)


def only_span(span: Span) -> SpanMessage:
    """The one span of an encoded request, as the generated classes read it."""
    return decoded(OtlpEncoder({}).encode([span])).resource_spans[0].scope_spans[0].spans[0]


def make_span(**changes: Any) -> Span:
    """A plain span with some fields changed."""
    plain = Span(b"t" * 16, b"s" * 8, b"", "chat", 3, 1_000, 2_000, {})
    return plain._replace(**changes)


@given(st.lists(SPANS, min_size=1, max_size=4), st.dictionaries(TEXTS.filter(bool), TEXTS, max_size=3), TEXTS, TEXTS)
def test_decodes_to_the_official_encoders_message(
    spans: list[Span], resource: dict[str, str], scope_name: str, scope_version: str
) -> None:
    """Every field of every span, flags included, is what the official encoder writes for an equal ReadableSpan."""
    scope = InstrumentationScope(scope_name, scope_version)
    expected = encode_spans([readable(span, resource, scope) for span in spans])

    assert canonical(expected) == canonical(decoded(OtlpEncoder(resource, scope_name, scope_version).encode(spans)))


def test_long_texts_and_many_keys_are_encoded_alike() -> None:
    """What does not fit in the caches of heads (long texts, the keys past the first thousand) is encoded the same."""
    attributes = {f"key{number}": "x" * number for number in range(3_000)} | {"big": "é" * 3_000_000}
    scope = InstrumentationScope("agent_runtime", "1")
    span = make_span(attributes=attributes)
    expected = encode_spans([readable(span, {"service.name": "a"}, scope)])

    actual = decoded(OtlpEncoder({"service.name": "a"}, "agent_runtime", "1").encode([span]))

    assert canonical(expected) == canonical(actual)


@given(st.text(st.characters(), max_size=20), st.text(st.characters(categories=["Cs"]), min_size=1, max_size=3))
def test_lone_surrogates_are_replaced_wherever_a_string_is(text: str, surrogates: str) -> None:
    """A string that UTF-8 cannot hold never raises, in any place; each surrogate arrives as a question mark."""
    bad = text + surrogates
    good = bad.encode("utf-8", "replace").decode()

    def holding(string: str) -> Span:
        details: Attributes = {string: string, "list": [string]}
        return make_span(
            name=string,
            attributes=details,
            events=((1, string, details),),
            links=((b"t" * 16, b"l" * 8, details),),
            status_code=2,
            status_message=string,
        )

    expected = OtlpEncoder({good: good}, good, good).encode([holding(good)])

    assert expected == OtlpEncoder({bad: bad}, bad, bad).encode([holding(bad)])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(2**63, 2**63 - 1), (-(2**63) - 1, -(2**63)), (10**10_000, 2**63 - 1)],
    ids=["above", "below", "huge"],
)
def test_integers_outside_int64_are_clamped(value: int, expected: int) -> None:
    """An attribute keeps its type and its place in the span when its integer is too large for OTLP."""
    assert expected == only_span(make_span(attributes={"n": value})).attributes[0].value.int_value


def test_times_outside_the_field_are_clamped() -> None:
    """The years 0001 and 9999 in nanoseconds do not fit; they become the first and the last moment that do."""
    span = only_span(make_span(start_ns=-(10**19), end_ns=10**21, events=((-1, "e", {}),)))
    expected = (0, 2**64 - 1, 0)

    assert expected == (span.start_time_unix_nano, span.end_time_unix_nano, span.events[0].time_unix_nano)


def test_string_enums_are_written_as_their_value() -> None:
    """An enum that is a string is encoded as that string, not as its Python name."""

    class Decision(str, Enum):  # noqa: UP042 - the kind whose str() is not its value
        APPROVE = "approve"

    span = only_span(make_span(attributes={"d": Decision.APPROVE}))

    assert Decision.APPROVE.value == span.attributes[0].value.string_value


def test_a_type_that_otlp_does_not_know_is_written_as_text() -> None:
    """A value of a foreign type costs its type, never the span."""
    attributes = only_span(make_span(attributes={"path": {"a": 1}, "none": None})).attributes
    expected = ("{'a': 1}", None)

    assert expected == (attributes[0].value.string_value, attributes[1].value.WhichOneof("value"))


def test_a_status_message_without_an_error_is_kept() -> None:
    """A message with the status unset is written without a code."""
    status = only_span(make_span(status_code=0, status_message="so so")).status
    expected = (0, "so so")

    assert expected == (status.code, status.message)


def test_equal_spans_have_equal_bytes() -> None:
    """A span folded again is byte-identical, so that a backend can merge the copies."""
    span = make_span(attributes={"a": 1.5, "b": math.pi, "c": ["x"]})

    assert encode_span(span) == encode_span(span._replace(attributes=dict(span.attributes)))


@given(
    st.lists(st.integers(0, 400), max_size=40),
    st.integers(1, 8),
    st.integers(200, 1_000),
)
def test_batches_keep_order_and_limits_and_are_as_full_as_they_can(
    sizes: list[int], max_spans: int, max_bytes: int
) -> None:
    """Joined, the batches are the spans; none exceeds a limit but a lone span; no batch could take one span more."""
    encoder = OtlpEncoder({"service.name": "a"}, "agent_runtime", "1")
    encoded = [encode_span(make_span(attributes={"text": "x" * size})) for size in sizes]

    batches = list(encoder.batches(encoded, max_spans, max_bytes))

    assert encoded == [span for batch in batches for span in batch]
    for batch, following in zip_longest(batches, batches[1:]):
        assert 1 <= len(batch) <= max_spans
        assert len(batch) == 1 or len(encoder.request(batch)) <= max_bytes
        if following is not None:
            one_more = [*batch, following[0]]
            too_large = sum(map(len, one_more)) + encoder.overhead > max_bytes
            assert len(batch) == max_spans or too_large


def test_the_default_limits_cut_512_spans_of_8_kib() -> None:
    """512 spans of 8 KiB are over 4 MiB; they are cut to requests that a gRPC server with its default limit takes."""
    encoder = OtlpEncoder({"service.name": "a"})
    encoded = [encode_span(make_span(attributes={"text": "x" * 8_192})) for _ in range(MAX_SPANS)]

    fits = [len(encoder.request(batch)) <= MAX_BYTES for batch in encoder.batches(encoded)]
    expected = [True, True]

    assert expected == fits


def test_a_request_declares_at_most_the_overhead() -> None:
    """A request is never larger than its spans and the overhead that batches reckon with."""
    encoder = OtlpEncoder({"service.name": "a" * 5_000}, "scope" * 100, "1")
    encoded = [encode_span(make_span(attributes={"text": "x" * 3_000_000}))]

    assert 0 <= len(encoded[0]) + encoder.overhead - len(encoder.request(encoded)) <= 12


def test_joins_of_slices_hold_the_same_spans() -> None:
    """Halving a batch, as the outbox does to find a refused span, needs the bytes only."""
    encoder = OtlpEncoder({"service.name": "a"})
    spans = [make_span(span_id=struct.pack(">Q", number)) for number in range(1, 5)]
    encoded = [encode_span(span) for span in spans]

    assert encoder.encode(spans[2:]) == encoder.request(encoded[2:])
