from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.identity import root_span_id, span_id, trace_id

HEX = "0af7651916cd43dd8448eb211c80319c"


def test_a_w3c_id_is_the_trace_id() -> None:
    """32 lower-case hex digits are the trace id themselves."""
    assert bytes.fromhex(HEX) == trace_id(HEX)


@pytest.mark.parametrize("text", ["order 17", HEX.upper(), HEX[:-1], "0" * 32, "ä" * 32])
def test_any_other_id_is_hashed(text: str) -> None:
    """Everything else is hashed, all zeros too: BLAKE2b with 128 bits."""
    assert blake2b(text.encode(), digest_size=16).digest() == trace_id(text)


def test_a_span_is_named_by_event_and_operation() -> None:
    """BLAKE2b with 64 bits of the opening event and the row's name: another process can compute it."""
    assert blake2b(b"event\0chat", digest_size=8).digest() == span_id("event", "chat")
    assert blake2b(f"{HEX}\0invoke_workflow".encode(), digest_size=8).digest() == root_span_id(HEX)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(st.characters(exclude_categories=["Cs"])))
def test_never_zero_and_of_the_right_length(text: str, other: str) -> None:
    """Ids are never all zero, which W3C forbids, and have 16 and 8 bytes."""
    assert (16, 8) == (len(trace_id(text)), len(span_id(text, other)))
    assert any(trace_id(text))
    assert any(span_id(text, other))
