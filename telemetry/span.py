"""A finished span, as the span fold makes it and the OTLP encoder reads it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

Value: TypeAlias = str | bool | int | float | Sequence[str]
"""An attribute's value, as OpenTelemetry allows it."""

Attributes: TypeAlias = Mapping[str, Value]


class Span(NamedTuple):
    """One closed span. Field names and numbers are those of OTLP's `opentelemetry.proto.trace.v1.Span`.

    A plain record: it costs a fraction of an SDK span, compares by value, and says nothing that is not stored.
    """

    trace_id: bytes
    """16 bytes, not all zero."""
    span_id: bytes
    """8 bytes, not all zero."""
    parent_span_id: bytes
    """8 bytes, or `b""` for a trace's root."""
    name: str
    kind: int
    """1 INTERNAL, 2 SERVER, 3 CLIENT."""
    start_ns: int
    """Nanoseconds since the Unix epoch."""
    end_ns: int
    """Nanoseconds since the Unix epoch, never before `start_ns`."""
    attributes: Attributes
    events: tuple[tuple[int, str, Attributes], ...] = ()
    """(nanoseconds since the epoch, name, attributes), oldest first."""
    dropped_events: int = 0
    """How many span events were left out."""
    links: tuple[tuple[bytes, bytes, Attributes], ...] = ()
    """(trace id, span id, attributes)."""
    status_code: int = 0
    """0 unset, 1 ok, 2 error."""
    status_message: str = ""
