from pathlib import Path

import pytest

from agent_runtime.events.event_bus import EventBus
from agent_runtime.tools import ToolExecutor, ToolRegistry, Workspace
from agent_runtime.tools.file_tools import MAX_LISTED, FileTools
from tests.tools.conftest import Run


async def test_what_is_written_is_read(run: Run, root: Path) -> None:
    """Byte for byte, with the line ends that it has."""
    content = "one\r\ntwo\n\tdrei — три\n"
    written = await run("write_file", path="a/b.txt", content=content, create_dirs=True)
    assert (True, f"created a/b.txt: {len(content.encode())} bytes") == (written.ok, written.content)
    assert content.encode() == (root / "a/b.txt").read_bytes()
    assert content == (await run("read_file", path="a/b.txt")).content


async def test_a_backup_is_named(run: Run) -> None:
    """The model learns where the old content is."""
    await run("write_file", path="a.md", content="1")
    result = await run("write_file", path="a.md", content="22", backup=True)
    assert "replaced a.md: 2 bytes; the old content is in a.bak.md" == result.content


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ({"start_line": 2}, "two\nthree\u2028still\nfour"),
        ({"end_line": 1}, "one\n"),
        ({"start_line": 2, "end_line": 3}, "two\nthree\u2028still\n"),
        ({"start_line": 4, "end_line": 99}, "four"),
        ({"start_line": None}, "one\ntwo\nthree\u2028still\nfour"),
    ],
)
async def test_read_some_lines(run: Run, root: Path, lines: dict[str, int], expected: str) -> None:
    """From 1, both ends included, and only a new line ends a line."""
    (root / "a.txt").write_text("one\ntwo\nthree\u2028still\nfour")
    assert expected == (await run("read_file", path="a.txt", **lines)).content


@pytest.mark.parametrize(
    "lines", [{"start_line": 5}, {"start_line": 3, "end_line": 2}, {"start_line": 5, "end_line": 9}]
)
async def test_lines_that_are_not_there(run: Run, root: Path, lines: dict[str, int]) -> None:
    """The model learns how many there are."""
    (root / "a.txt").write_text("one\ntwo\nthree\nfour")
    result = await run("read_file", path="a.txt", **lines)
    assert ("invalid_arguments", "a.txt has 4 lines: there are no such lines") == (result.error_type, result.content)


@pytest.mark.parametrize("encoding", ["utf-8", "UTF_8", "utf-16", "cp1251", "koi8-r"])
async def test_encodings(run: Run, root: Path, encoding: str) -> None:
    """Written and read in the same one."""
    await run("write_file", path="a.txt", content="текст", encoding=encoding)
    assert "текст".encode(encoding) == (root / "a.txt").read_bytes()
    assert "текст" == (await run("read_file", path="a.txt", encoding=encoding)).content


@pytest.mark.parametrize("encoding", ["idna", "punycode", "hex", "rot13", "unicode_escape", "../x", "", "utf-8\0"])
async def test_no_other_codecs(run: Run, root: Path, encoding: str) -> None:
    """Slow ones, and those that make something else than text of a file, are not known here."""
    (root / "a.txt").write_text("text")
    for tool, more in [("read_file", {}), ("write_file", {"content": "new"})]:
        result = await run(tool, path="a.txt", encoding=encoding, **more)
        assert "invalid_arguments" == result.error_type
    assert "text" == (root / "a.txt").read_text()


async def test_what_is_no_text(run: Run, root: Path) -> None:
    """Bytes of another encoding and binary files are not read, and no half of a text is written."""
    (root / "latin").write_bytes(b"\xe4")
    (root / "binary").write_bytes(b"\x7fELF\0\0")
    for result in [
        await run("read_file", path="latin"),
        await run("read_file", path="binary"),
        await run("write_file", path="new", content="é", encoding="ascii"),
    ]:
        assert (False, "encoding") == (result.ok, result.error_type)
    assert ["binary", "latin"] == sorted(path.name for path in root.iterdir())


async def test_list(run: Run, root: Path) -> None:
    """One path a line; a name can't look like two; a pattern means files."""
    for name in ("src/app/main.py", "src/util.py", "src/notes.md", ".env", "odd\nname.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert "'odd\\nname.py'\nsrc/" == (await run("list_files", path=".")).content
    assert ".env\n'odd\\nname.py'\nsrc/" == (await run("list_files", path=".", include_hidden=True)).content
    for pattern, expected in [
        ("*.md", "src/notes.md"),
        ("src/*.py", "src/util.py\nsrc/app/main.py"),
        ("**/main.py", "src/app/main.py"),
        ("src", ""),
    ]:
        result = await run("list_files", path=".", recursive=True, pattern=pattern)
        assert expected == result.content
    assert "src/app/\nsrc/notes.md\nsrc/util.py" == (await run("list_files", path="./src/")).content


async def test_a_list_ends(run: Run, root: Path) -> None:
    """And says that it does."""
    for number in range(MAX_LISTED + 1):
        (root / f"{number:05}").touch()
    lines = (await run("list_files", path=".")).content.split("\n")
    assert (MAX_LISTED + 1, True) == (len(lines), lines[-1].startswith("… the list ends here"))


async def test_search(run: Run, root: Path) -> None:
    """Text or expression, in files by pattern, with or without case; hidden and binary files are left out."""
    (root / "src").mkdir()
    (root / "src/a.py").write_text("import os\n\ndef Find(x):\n    return x.y\n")
    (root / "src/b.md").write_text("find me\n")
    (root / ".hidden").write_text("find me\n")
    (root / "binary").write_bytes(b"find me\0")
    for arguments, expected in [
        ({"query": "find"}, "src/a.py:3: def Find(x):\nsrc/b.md:1: find me"),
        ({"query": "find", "case_sensitive": True}, "src/b.md:1: find me"),
        ({"query": "find", "file_pattern": "*.py"}, "src/a.py:3: def Find(x):"),
        ({"query": "find", "path": "src/b.md"}, "src/b.md:1: find me"),
        ({"query": "x.y"}, "src/a.py:4: return x.y"),
        ({"query": "x.y", "regex": True}, "src/a.py:4: return x.y"),
        ({"query": r"^\s+return", "regex": True}, "src/a.py:4: return x.y"),
        ({"query": "F.nd", "regex": False}, "nothing found"),
        ({"query": "find", "max_results": 1}, "src/a.py:3: def Find(x):\n… the search ends here, at 1 lines"),
    ]:
        assert expected == (await run("search_in_code", **arguments)).content


@pytest.mark.parametrize(
    ("arguments", "error_type"),
    [
        ({"query": "("}, "invalid_regex"),
        ({"query": "x", "max_results": 1001}, "invalid_arguments"),
        ({"query": "x", "max_results": 0}, "invalid_arguments"),
        ({"query": ""}, "invalid_arguments"),
        ({"query": "x", "path": "none"}, "not_found"),
    ],
)
async def test_search_refused(run: Run, arguments: dict[str, object], error_type: str) -> None:
    """With a name for each reason."""
    assert error_type == (await run("search_in_code", regex=True, **arguments)).error_type


async def test_a_catastrophic_expression_is_ended(workspace: Workspace, root: Path) -> None:
    """Within the limit for one search, and the next one works."""
    (root / "a.txt").write_text("a" * 60 + "!")
    executor = ToolExecutor(EventBus(), ToolRegistry(FileTools(workspace, search_seconds=1.0).functions()))

    async def search(query: str) -> str:
        arguments = {"query": query, "regex": True}
        result = await executor.execute(
            session_id=None, agent=None, tool_name="search_in_code", call_id="c", arguments=arguments
        )
        return result.error_type

    assert "timeout" == await search("(a+)+$")
    assert "" == await search("a+")


async def test_create_delete_move(run: Run, root: Path) -> None:
    """Each says what it did."""
    said = [
        await run("create_directory", path="a/b"),
        await run("create_directory", path="a/b"),
        await run("write_file", path="a/b/f", content=""),
        await run("move_file", source="a/b/f", destination="g"),
        await run("delete_file", path="g"),
    ]
    expected = ["created a/b", "a/b was there", "created a/b/f: 0 bytes", "moved a/b/f to g", "deleted g"]
    assert expected == [result.content for result in said]
    assert ["a", "a/b"] == sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    assert "exists" == (await run("create_directory", path="a/b", recursive=False)).error_type


async def test_the_file_rule_is_the_agents(run: Run, root: Path) -> None:
    """It holds for what changes files, not for reading and listing."""
    (root / "a.py").write_text("code")
    assert "file_rule" == (await run("write_file", file_rule="*.md", path="b.py", content="x")).error_type
    assert (await run("write_file", file_rule="*.md", path="b.md", content="x")).ok
    assert "code" == (await run("read_file", file_rule="*.md", path="a.py")).content
