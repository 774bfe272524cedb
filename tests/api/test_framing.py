"""Telling the elements of a body apart."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.api.framing import Framed, Unframed, elements

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(JSON_VALUES, max_size=8), st.sampled_from([None, 1]))
def test_elements_of_an_array(values: list[object], indent: int | None) -> None:
    """Whatever the elements are, and however they are spaced, each is found whole."""
    framed = elements(json.dumps(values, indent=indent).encode(), 100)
    assert values == [json.loads(element.text) for element in framed]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", []),
        (b" [ ] ", []),
        (b"[1]", [Framed(b"1", 0)]),
        (b"[,]", [Framed(b"", 0), Framed(b"", 0)]),
        (b'["],[", {"a": [1, 2]}]', [Framed(b'"],["', 0), Framed(b' {"a": [1, 2]}', 2)]),
        (rb'["\"", "\\"]', [Framed(rb'"\""', 0), Framed(rb' "\\"', 0)]),
        (b'{"a": [1]}', [Framed(b'{"a": [1]}', 2)]),
        (b"NaN", [Framed(b"NaN", 0)]),
    ],
)
def test_edges(body: bytes, expected: list[Framed]) -> None:
    """Brackets and commas inside strings are text; depth counts the brackets of the element alone."""
    assert expected == elements(body, 100)


@pytest.mark.parametrize("body", [b"[", b"[1", b'["a', b"[1]]", b"[1] 2", b"{} {}", b"}", b'{"a": "'])
def test_no_frame(body: bytes) -> None:
    """Where brackets or strings don't end as they must, nothing can be told apart."""
    with pytest.raises(Unframed):
        elements(body, 100)


def test_it_stops_behind_the_limit() -> None:
    """One element more than allowed is found, and no more than that."""
    assert 4 == len(elements(b"[" + b"1," * 1_000 + b"1]", 3))
