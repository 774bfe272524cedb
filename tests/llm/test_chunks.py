from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.llm.chunks import MAX_CHARACTERS, MAX_TOOL_CALLS, Assembly
from agent_runtime.llm.client import Answer, LLMError, ToolCall, Usage


def chunk(
    content: str | None = None, calls: list[dict[str, Any]] | None = None, finish: str | None = None
) -> dict[str, Any]:
    """A chunk with one choice."""
    return {"choices": [{"index": 0, "delta": {"content": content, "tool_calls": calls}, "finish_reason": finish}]}


def call(index: int | None, call_id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    """A piece of a tool call."""
    return {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}


def assembled(*chunks: object) -> Answer:
    """The answer that these chunks make, with the one that ends it."""
    assembly = Assembly()
    for piece in chunks:
        assembly.add(piece)
    assembly.add(chunk(finish="stop"))
    return assembly.answer()


CALLS = (ToolCall("a", "write_file", '{"path": "x.md"}'), ToolCall("b", "read_file", '{"path": "y"}'))


@given(st.data())
def test_tool_calls_come_together_however_they_are_cut(data: st.DataObject) -> None:
    """The pieces of several calls may be of any size, and come in any order that keeps each call's own."""
    todo = {index: list(expected.arguments) for index, expected in enumerate(CALLS)}
    assembly = Assembly()
    for index, expected in enumerate(CALLS):
        assembly.add(chunk(calls=[call(index, expected.call_id, expected.name, None)]))
    while any(todo.values()):
        index = data.draw(st.sampled_from([index for index, left in todo.items() if left]))
        size = data.draw(st.integers(1, len(todo[index])))
        assembly.add(chunk(calls=[call(index, None, None, "".join(todo[index][:size]))]))
        del todo[index][:size]
    assembly.add(chunk(finish="tool_calls"))

    assert CALLS == assembly.answer().tool_calls


def test_calls_under_one_index_are_told_apart_by_their_ids() -> None:
    """An endpoint that sends every call under index 0, or under none, is understood."""
    for index in (0, None):
        pieces = [call(index, "a", "write_file", '{"path":'), call(index, None, None, ' "x.md"}')]
        more = [call(index, "b", "read_file", '{"path": "y"}')]

        assert CALLS == assembled(chunk(calls=pieces), chunk(calls=more)).tool_calls


def test_an_id_that_is_repeated_in_every_piece_is_one_call() -> None:
    """An endpoint that repeats the id is understood as well."""
    pieces = [call(0, "a", "write_file", '{"path":'), call(0, "a", "write_file", ' "x.md"}')]

    assert CALLS[:1] == assembled(chunk(calls=pieces)).tool_calls


@pytest.mark.parametrize("given_ids", [(None, None), ("", ""), ("same", "same"), ("a\nb", "x" * 1000)])
def test_every_call_has_an_id_of_its_own(given_ids: tuple[str | None, str | None]) -> None:
    """Ids that are missing, not unique or no names are replaced, so that an approval means one call."""
    calls = assembled(chunk(calls=[call(at, given, "echo", "{}") for at, given in enumerate(given_ids)])).tool_calls

    assert (2, True) == (len({made.call_id for made in calls}), all(made.call_id.isprintable() for made in calls))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, "unnamed"),
        ("", "unnamed"),
        ("write_file\n", "write_file\N{REPLACEMENT CHARACTER}"),
        ("x" * 500, "x" * 128),
    ],
)
def test_a_name_that_is_none_stays_unknown(name: str | None, expected: str) -> None:
    """A name that no event could hold is made one that can, and never the name of a tool."""
    assert expected == assembled(chunk(calls=[call(0, "a", name, "{}")])).tool_calls[0].name


def test_text_is_what_can_be_stored() -> None:
    """Lone surrogates and NUL become replacement characters, in texts and in arguments; pairs become their sign."""
    answer = assembled(
        chunk(content="a\ud83d\0"), chunk(content="\ud83d\ude00"), chunk(calls=[call(0, "a", "echo", "\udc00")])
    )
    mark = "\N{REPLACEMENT CHARACTER}"

    assert (f"a{mark}{mark}\N{GRINNING FACE}", mark) == (answer.text, answer.tool_calls[0].arguments)


def test_a_refusal_is_text() -> None:
    """What the model says when it refuses is shown like any other text."""
    refusal = {"choices": [{"index": 0, "delta": {"refusal": "I won't."}, "finish_reason": None}]}

    assert "I won't." == assembled(refusal).text


def test_only_the_first_choice_counts() -> None:
    """Of several choices the first is the answer."""
    both = {"choices": [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "yes"}}]}

    assert "yes" == assembled(both).text


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (None, Usage()),
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}, Usage(9, 4, 13, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 4}, Usage(9, 4, 13, 0)),
        ({"prompt_tokens": 9, "completion_tokens": None, "total_tokens": None}, Usage(9, 0, 9, 0)),
        (
            {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}},
            Usage(9, 4, 13, 8),
        ),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": None}}, Usage(9, 0, 9, 0)),
    ],
)
def test_usage_is_read_as_far_as_it_is_told(row: dict[str, Any] | None, expected: Usage) -> None:
    """Tokens that the endpoint leaves out are 0, and the total is their sum."""
    assert expected == assembled({"choices": [], "usage": row}).usage


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        "text",
        7,
        [],
        {},
        {"choices": 5},
        {"choices": [5]},
        {"choices": [{"delta": "text"}]},
        {"choices": [{"delta": {"content": {"a": 1}}}]},
        {"choices": [{"delta": {"tool_calls": {"index": 0}}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": "first"}]}}]},
        {"choices": [], "usage": {"prompt_tokens": -1}},
        {"choices": [], "usage": {"prompt_tokens": 2**70}},
        {"choices": [], "usage": "many"},
    ],
)
def test_what_is_no_chunk_is_a_bad_answer(garbage: object) -> None:
    """Foreign data of any shape ends in one clear error."""
    with pytest.raises(LLMError) as caught:
        Assembly().add(garbage)

    assert ("bad_answer", False) == (caught.value.error_type, caught.value.retryable)


def test_an_answer_without_an_end_is_no_answer() -> None:
    """Half a tool call is not handed out."""
    assembly = Assembly()
    assembly.add(chunk(calls=[call(0, "a", "write_file", '{"path":')]))

    with pytest.raises(LLMError) as caught:
        assembly.answer()

    assert "bad_answer" == caught.value.error_type


@pytest.mark.parametrize(
    "flood",
    [
        [chunk(content="x" * MAX_CHARACTERS), chunk(content="x")],
        [chunk(calls=[call(0, "a", "echo", "x" * MAX_CHARACTERS)]), chunk(content="x")],
        [chunk(calls=[call(index, None, "echo", "") for index in range(MAX_TOOL_CALLS + 1)])],
    ],
    ids=["text", "arguments", "calls"],
)
def test_an_answer_is_bounded(flood: list[dict[str, Any]]) -> None:
    """An endpoint that never stops does not fill the memory."""
    with pytest.raises(LLMError) as caught:
        assembled(*flood)

    assert "bad_answer" == caught.value.error_type
