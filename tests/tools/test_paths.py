import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.tools.errors import ToolError
from agent_runtime.tools.paths import components, explained, file_components, permits


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".", ()),
        ("./", ()),
        ("a", ("a",)),
        ("a/b.py", ("a", "b.py")),
        ("./a//./b/", ("a", "b")),
        ("...", ("...",)),
        ("a..b/..c", ("a..b", "..c")),
        ("~/x", ("~", "x")),
        ("имя/é ö", ("имя", "é ö")),
    ],
)
def test_components(path: str, expected: tuple[str, ...]) -> None:
    """The names, without what changes nothing."""
    assert expected == components(path)


@pytest.mark.parametrize(
    "path", ["", "/", "/a", "..", "a/..", "a/../b", "a\\b", "a\nb", "a\0", "\ud800", "a/" * 65 + "a"]
)
def test_components_refused(path: str) -> None:
    """Nothing absolute, nothing that climbs, nothing that can't be shown; and the message can be shown."""
    with pytest.raises(ToolError) as caught:
        components(path)
    assert ("path_refused", True) == (caught.value.error_type, caught.value.content.isprintable())


@given(st.text(alphabet="a./\\\0é", max_size=20))
def test_components_never_lead_up(path: str) -> None:
    """Whatever the path, no name is a dot, two dots, empty, or holds a slash."""
    try:
        parts = components(path)
    except ToolError:
        return
    assert [] == [part for part in parts if part in ("", ".", "..") or "/" in part]


@pytest.mark.parametrize(
    ("rule", "name", "expected"),
    [
        (None, "a.py", True),
        ("*.md", "a.md", True),
        ("*.md", ".md", True),
        ("*.md", "a.md.py", False),
        ("*.md", "A.MD", False),
        ("README.*", "README.md", True),
    ],
)
def test_permits(rule: str | None, name: str, expected: bool) -> None:
    """The whole name matches the glob, in its case."""
    assert expected == permits(rule, name)


@pytest.mark.parametrize(
    ("path", "rule", "error_type"),
    [(".", None, "not_a_file"), ("a.py", "*.md", "file_rule"), ("x.md/a.py", "*.md", "file_rule")],
)
def test_file_components_refused(path: str, rule: str | None, error_type: str) -> None:
    """The workspace is no file, and the rule is about the last name."""
    with pytest.raises(ToolError) as caught:
        file_components(path, rule)
    assert error_type == caught.value.error_type


@pytest.mark.parametrize(
    ("number", "error_type"),
    [(errno.ENOENT, "not_found"), (errno.ELOOP, "path_refused"), (errno.EEXIST, "exists"), (errno.ENOSPC, "os_error")],
)
def test_the_systems_words_are_replaced(number: int, error_type: str) -> None:
    """The model's path is named, and the machine's is not."""
    with pytest.raises(ToolError) as caught, explained("a/b"):
        raise OSError(number, "said the system", "/on/this/machine")
    assert error_type == caught.value.error_type
    assert caught.value.content == f"a/b: {caught.value.what}"
    assert "machine" not in caught.value.content
