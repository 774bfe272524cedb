import pytest

from agent_runtime.tools.errors import ToolError
from agent_runtime.tools.line_search import MAX_LINE
from agent_runtime.tools.search import LineSearch


def test_lines_of_several_texts() -> None:
    """Numbered from 1, without the blanks around them, at most as many as asked for."""
    with LineSearch("b+", ignore_case=False, seconds=60) as search:
        assert [(1, "ab"), (3, "bbb")] == search.matches("ab\nB\n  bbb\n", 10)
        assert [] == search.matches("", 10)
        assert [(2, "b")] == search.matches("a\nb\nb\nb", 1)
        assert [(1, "été b")] == search.matches("été b", 10)


def test_case_may_be_ignored() -> None:
    """Beyond ASCII as well."""
    with LineSearch("straße|ДА", ignore_case=True, seconds=60) as search:
        assert [(1, "STRAßE"), (2, "да")] == search.matches("STRAßE\nда", 10)


def test_long_lines_are_cut() -> None:
    """A line of a minified file does not fill the answer."""
    with LineSearch("x", ignore_case=False, seconds=60) as search:
        assert [(1, "x" * MAX_LINE)] == search.matches("x" * 100_000, 10)


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "(?P<a>x)(?P<a>y)", "a{2,1}", "(?<=a+)b"])
def test_no_regular_expression(pattern: str) -> None:
    """Python's own complaint reaches the model, and no event."""
    with pytest.raises(ToolError) as caught, LineSearch(pattern, ignore_case=False, seconds=60):
        pass
    assert ("invalid_regex", "is no regular expression") == (caught.value.error_type, caught.value.what)


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|a)*$", r"(.*a){25}$", r"^(\w+\s?)*$"])
def test_a_catastrophe_is_ended_at_the_deadline(pattern: str) -> None:
    """It would run for years, and can't be interrupted; the process is killed."""
    with pytest.raises(ToolError) as caught, LineSearch(pattern, ignore_case=False, seconds=0.3) as search:
        search.matches("a" * 50 + "!", 10)
        search.matches("a" * 5_000 + "!", 10)
    assert "timeout" == caught.value.error_type


def test_memory_is_bounded() -> None:
    """An expression whose program would fill the memory ends the process, not the machine."""
    with pytest.raises(ToolError) as caught, LineSearch("((((a{1,999}){1,999}){1,999})", ignore_case=False, seconds=30):
        pass
    assert caught.value.error_type in {"search_failed", "invalid_regex"}
