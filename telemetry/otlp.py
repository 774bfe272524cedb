"""Spans to OTLP bytes: the `ExportTraceServiceRequest` message, written by hand.

The official encoder spends nearly all its time building message objects. The wire format itself is small: a field is a
tag (`number << 3 | wire type`), then a number, eight bytes, or a length and that many bytes. Field numbers are those of
`opentelemetry/proto/trace/v1/trace.proto` and `common/v1/common.proto`; the tests hold this module equal to the
generated messages and to the official encoder.

Each span is encoded once, to its bytes within the request. Batches and requests only join such bytes, so splitting a
batch (by size, or to find the span that a backend refuses) encodes nothing again:

    encoder = OtlpEncoder({"service.name": "shop"}, "agent_runtime", "0.1.0")
    for batch in encoder.batches([encode_span(span) for span in spans]):
        await transport.send(encoder.request(batch))
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from telemetry.span import Attributes, Span

MAX_SPANS = 512
"""Spans in one request, at most."""
MAX_BYTES = 3_670_016
"""Bytes in one request, at most (3.5 MiB): a gRPC server accepts 4 MiB unless told otherwise."""

_LARGEST_KEPT = 1024
"""Heads are kept for the first so many keys and for texts shorter than this, so that the caches stay small."""
_UINT64 = 2**64 - 1
_INT64 = 2**63
_SMALL = tuple(bytes((n,)) for n in range(128))
_KIND_START_END = struct.Struct("<BBBQBQ").pack
_DOUBLE = struct.Struct("<Bd").pack
_FIXED64 = struct.Struct("<BQ").pack
_SPAN_FLAGS = b"\x85\x01\x00\x01\x00\x00"  # field 16: CONTEXT_HAS_IS_REMOTE, the parent is not remote
_LINK_FLAGS = b"\x35\x00\x01\x00\x00"  # field 6, the same
_STATUS = {0: b"\x7a\x00", 1: b"\x7a\x02\x18\x01", 2: b"\x7a\x02\x18\x02"}


def encode_span(span: Span) -> bytes:
    """Encode one span as a `ScopeSpans.spans` field (tag and length included), the form that `OtlpEncoder` joins.

    Never raises for what a string or number holds: lone surrogates become `?`, times and integers outside 64 bits are
    clamped to the nearest that fits.
    """
    (trace_id, span_id, parent, name, kind, start, end, attributes, events, dropped, links, code, message) = span
    try:
        times = _KIND_START_END(0x30, kind, 0x39, start, 0x41, end)
    except struct.error:
        times = _KIND_START_END(0x30, kind, 0x39, _clamped(start), 0x41, _clamped(end))
    parts = [b"\x0a\x10", trace_id, b"\x12\x08", span_id]
    if parent:
        parts += b"\x22\x08", parent
    parts += _text(b"\x2a", name), times, _attributes(attributes, _SPAN_ATTRIBUTES)
    for time_ns, event, details in events:
        body = _fixed64(0x09, time_ns) + _text(b"\x12", event) + _attributes(details, _EVENT_ATTRIBUTES)
        parts += b"\x5a", _varint(len(body)), body
    if dropped:
        parts += b"\x60", _varint(dropped)
    for linked_trace, linked_span, details in links:
        body = b"\x0a\x10" + linked_trace + b"\x12\x08" + linked_span + _attributes(details, _LINK_ATTRIBUTES)
        parts += b"\x6a", _varint(len(body) + len(_LINK_FLAGS)), body, _LINK_FLAGS
    if message:
        status = _text(b"\x12", message) + (b"\x18" + _varint(code) if code else b"")
        parts += b"\x7a", _varint(len(status)), status
    else:
        parts.append(_STATUS[code])
    parts.append(_SPAN_FLAGS)
    encoded = b"".join(parts)
    return b"\x12" + _varint(len(encoded)) + encoded


class OtlpEncoder:
    """Joins encoded spans of one resource and one instrumentation scope to requests.

    resource: attributes of the process, `service.name` among them. scope_name, scope_version: who made the spans.
    """

    def __init__(self, resource: Attributes, scope_name: str = "", scope_version: str = "") -> None:
        self._resource = _nested(b"\x0a", _attributes(resource, _RESOURCE_ATTRIBUTES))
        scope = (_text(b"\x0a", scope_name) if scope_name else b"") + (
            _text(b"\x12", scope_version) if scope_version else b""
        )
        self._scope = _nested(b"\x0a", scope)
        self.overhead = len(self._resource) + len(self._scope) + 12
        """Bytes that a request has beyond its spans, at most (two tags and lengths, resource and scope)."""

    def encode(self, spans: Sequence[Span]) -> bytes:
        """Encode spans to one `ExportTraceServiceRequest`, whatever its size."""
        return self.request([encode_span(span) for span in spans])

    def request(self, encoded: Sequence[bytes]) -> bytes:
        """Join spans that `encode_span` made to one `ExportTraceServiceRequest`."""
        scope_length = len(self._scope) + sum(map(len, encoded))
        head = self._resource + b"\x12" + _varint(scope_length) + self._scope
        resource_length = len(head) - len(self._scope) + scope_length
        return b"".join((b"\x0a", _varint(resource_length), head, *encoded))

    def batches(
        self, encoded: Sequence[bytes], max_spans: int = MAX_SPANS, max_bytes: int = MAX_BYTES
    ) -> Iterator[Sequence[bytes]]:
        """Cut encoded spans into runs, in order, whose requests keep both limits; a span that is larger goes alone."""
        room = max_bytes - self.overhead
        start = size = 0
        for index, span in enumerate(encoded):
            if index > start and (size + len(span) > room or index - start == max_spans):
                yield encoded[start:index]
                start, size = index, 0
            size += len(span)
        if start < len(encoded):
            yield encoded[start:]


class _Heads(dict[int, bytes]):
    """What stands before an attribute's value of a given length: the attribute's tag and length, its key, the value's.

    text: the value is the UTF-8 text of an `AnyValue.string_value`, whose tag and length belong to the head as well;
    otherwise it is a whole encoded `AnyValue`.
    """

    def __init__(self, tag: bytes, key: str, text: bool) -> None:
        self._tag, self._key, self._is_text = tag, _text(b"\x0a", key), text

    def __missing__(self, length: int) -> bytes:
        own = b"\x0a" + _varint(length) if self._is_text else b""
        value = self._key + b"\x12" + _varint(len(own) + length) + own
        head = self._tag + _varint(len(value) + length) + value
        if length < _LARGEST_KEPT:
            self[length] = head
        return head


class _Keys(dict[str, _Heads]):
    """The heads of each key that was seen, for attributes in one kind of message (`tag` is the attributes' field)."""

    def __init__(self, tag: bytes, text: bool) -> None:
        self._tag, self._is_text = tag, text

    def __missing__(self, key: str) -> _Heads:
        heads = _Heads(self._tag, key, self._is_text)
        if len(self) < _LARGEST_KEPT:
            self[key] = heads
        return heads


def _attributes(attributes: Attributes, keys: tuple[_Keys, _Keys]) -> bytes:
    """Encode attributes as repeated `KeyValue` fields, with the heads for texts and for other values."""
    if not attributes:
        return b""
    texts, others = keys
    parts: list[bytes] = []
    for key, value in attributes.items():
        if type(value) is str:
            encoded = value.encode("utf-8", "replace")
            parts += texts[key][len(encoded)], encoded
        else:
            encoded = _any_value(value)
            parts += others[key][len(encoded)], encoded
    return b"".join(parts)


def _any_value(value: Any) -> bytes:
    """Encode an `AnyValue`; a type that OTLP does not know is written as its text."""
    if value is True:
        return b"\x10\x01"
    if value is False:
        return b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(max(-_INT64, min(value, _INT64 - 1)) & _UINT64)
    if isinstance(value, float):
        return _DOUBLE(0x21, value)
    if isinstance(value, list | tuple):
        return _nested(b"\x2a", b"".join([_nested(b"\x0a", _any_value(item)) for item in value]))
    if value is None:
        return b""
    return _text(b"\x0a", value if isinstance(value, str) else str(value))


def _nested(tag: bytes, body: bytes) -> bytes:
    return tag + _varint(len(body)) + body


def _text(tag: bytes, text: str) -> bytes:
    encoded = text.encode("utf-8", "replace")
    return tag + _varint(len(encoded)) + encoded


def _varint(number: int) -> bytes:
    """Encode 0 ≤ number < 2**64: seven bits a byte, the lowest first, the high bit set on all but the last."""
    if number < 128:
        return _SMALL[number]
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _fixed64(tag: int, number: int) -> bytes:
    return _FIXED64(tag, _clamped(number))


def _clamped(number: int) -> int:
    return max(0, min(number, _UINT64))


_SPAN_ATTRIBUTES = _Keys(b"\x4a", True), _Keys(b"\x4a", False)
_EVENT_ATTRIBUTES = _Keys(b"\x1a", True), _Keys(b"\x1a", False)
_LINK_ATTRIBUTES = _Keys(b"\x22", True), _Keys(b"\x22", False)
_RESOURCE_ATTRIBUTES = _Keys(b"\x0a", True), _Keys(b"\x0a", False)
