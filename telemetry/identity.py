"""Trace and span ids as functions of what is stored, so that any process can compute any id, before or after the span
is exported.

A span is named by its opening event and its operation. The turn's own span is named by the correlation id, because
which event is the turn's first is not known before all have arrived.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

_HEX = frozenset("0123456789abcdef")
ROOT_OPERATION = "invoke_workflow"


@lru_cache(maxsize=16_384)
def trace_id(correlation_id: str) -> bytes:
    """16 bytes, never all zero: a correlation id of 32 lower-case hex digits is the trace id, any other is hashed
    (BLAKE2b-128)."""
    if len(correlation_id) == 32 and _HEX.issuperset(correlation_id) and correlation_id.strip("0"):
        return bytes.fromhex(correlation_id)
    return blake2b(correlation_id.encode(), digest_size=16).digest()


def span_id(event_id: str, operation: str) -> bytes:
    """8 bytes, never all zero: BLAKE2b-64 of the opening event's id and the operation."""
    digest = blake2b(f"{event_id}\0{operation}".encode(), digest_size=8).digest()
    return digest if any(digest) else b"\0\0\0\0\0\0\0\1"


@lru_cache(maxsize=16_384)
def root_span_id(correlation_id: str) -> bytes:
    """The id of the turn's own span."""
    return span_id(correlation_id, ROOT_OPERATION)
