import hashlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.events.errors import InvalidEvent
from agent_runtime.hitl.arguments import arguments_hash, canonical_json, copy_of, plain_object

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
JSON = st.recursive(
    SCALARS | TEXT, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
)


def test_canonical_json_is_sorted_and_dense() -> None:
    """Keys in order at every level, no spaces, letters as they are."""
    assert '{"a":{"x":[1,2.5],"y":null},"ж":"é"}'.encode() == canonical_json(
        {"ж": "é", "a": {"y": None, "x": [1, 2.5]}}
    )


def test_the_hash_is_sha256_of_it() -> None:
    """Any client can compute it."""
    assert hashlib.sha256(b'{"a":1,"b":2}').hexdigest() == arguments_hash({"b": 2, "a": 1})


@pytest.mark.parametrize("other", [{"a": "1"}, {"a": 1, "b": None}, {"a": [1]}, {"A": 1}, {}])
def test_other_arguments_have_another_hash(other: dict[str, Any]) -> None:
    """A change of type, an added null or a capital is another call."""
    assert arguments_hash({"a": 1}) != arguments_hash(other)


@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_a_copy_is_equal_and_has_the_same_hash(arguments: dict[str, Any]) -> None:
    """Whatever an event could carry survives being copied and written."""
    copy = copy_of(arguments)
    assert [arguments, arguments_hash(arguments)] == [copy, arguments_hash(copy)]


def test_a_copy_shares_nothing() -> None:
    """What a caller does to its arguments later does not reach the approval."""
    mine: dict[str, Any] = {"files": ["a"]}
    kept = plain_object(mine, "arguments")
    mine["files"].append("b")
    assert {"files": ["a"]} == kept


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, "arguments: expected an object, got null"),
        ([1], "arguments: expected an object, got an array"),
        ({"a": math.nan}, "arguments.a: is not a finite number"),
        ({"a": {"b": 2**63}}, "arguments.a.b: is a whole number of more than 64 bits"),
        ({"a": "\ud800"}, "arguments.a: contains a lone surrogate"),
        ({"a": "\0"}, "arguments.a: contains a NUL"),
        ({"a": {1}}, "arguments.a: can't be JSON"),
    ],
)
def test_what_no_event_could_carry_is_refused(value: object, complaint: str) -> None:
    """The error names the place."""
    with pytest.raises(InvalidEvent) as caught:
        plain_object(value, "arguments")
    assert complaint == str(caught.value)[: len(complaint)]
