import os
from contextlib import suppress
from pathlib import Path

import pytest

from agent_runtime.tools.errors import ToolError
from agent_runtime.tools.workspace import Entry, Workspace, Written


def names(root: Path) -> list[str]:
    """All that is in ``root``, at any depth."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_write_creates_and_replaces(workspace: Workspace, root: Path) -> None:
    """It says which of both it did, and leaves nothing else behind."""
    assert Written(replaced=False) == workspace.write("a.txt", b"one")
    assert Written(replaced=True) == workspace.write("a.txt", b"two")
    assert (b"two", ["a.txt"]) == (workspace.read("a.txt"), names(root))


def test_write_creates_directories_only_if_asked(workspace: Workspace, root: Path) -> None:
    """A path with a typing error does not grow a tree."""
    with pytest.raises(ToolError) as caught:
        workspace.write("a/b/c.txt", b"")
    assert ("not_found", []) == (caught.value.error_type, names(root))
    workspace.write("a/b/c.txt", b"", create_dirs=True)
    assert ["a", "a/b", "a/b/c.txt"] == names(root)


@pytest.mark.parametrize(
    ("name", "kept"), [("notes.md", "notes.bak.md"), ("Makefile", "Makefile.bak"), (".env", ".env.bak")]
)
def test_write_keeps_a_backup(workspace: Workspace, root: Path, name: str, kept: str) -> None:
    """The content before the last write, beside it, with the same suffix."""
    assert Written(replaced=False) == workspace.write(name, b"one", backup=True)
    workspace.write(name, b"two", backup=True)
    assert Written(replaced=True, backup=kept) == workspace.write(name, b"three", backup=True)
    assert ("three", "two", sorted([name, kept])) == ((root / name).read_text(), (root / kept).read_text(), names(root))


def test_a_backup_obeys_the_rule(workspace: Workspace, root: Path) -> None:
    """A rule for one file does not allow another beside it."""
    workspace.write("notes.md", b"one", rule="notes.md")
    with pytest.raises(ToolError) as caught:
        workspace.write("notes.md", b"two", rule="notes.md", backup=True)
    assert ("file_rule", "one") == (caught.value.error_type, (root / "notes.md").read_text())


def test_write_keeps_the_mode_but_no_special_bits(workspace: Workspace, root: Path) -> None:
    """A script stays executable; it does not stay setuid with another content."""
    workspace.write("run.sh", b"one")
    (root / "run.sh").chmod(0o4750)
    workspace.write("run.sh", b"two")
    assert 0o750 == (root / "run.sh").stat().st_mode & 0o7777


def test_write_replaces_and_never_writes_through(workspace: Workspace, root: Path, tmp_path: Path) -> None:
    """Another name of the same file, wherever it is, keeps the old content; so does who has it open."""
    (tmp_path / "other").write_text("old")
    os.link(tmp_path / "other", root / "a.txt")
    with (root / "a.txt").open() as reader:
        workspace.write("a.txt", b"new")
        assert "old" == reader.read()
    assert ("old", "new") == ((tmp_path / "other").read_text(), (root / "a.txt").read_text())


def test_a_write_that_fails_leaves_nothing(workspace: Workspace, root: Path) -> None:
    """Neither a temporary file nor half of the new one."""
    (root / "taken").mkdir()
    with pytest.raises(ToolError) as caught:
        workspace.write("taken", b"x")
    assert ("not_a_file", ["taken"]) == (caught.value.error_type, names(root))


def test_sizes_are_bounded(root: Path) -> None:
    """Up to the limit and not a byte more, both ways."""
    workspace = Workspace(root, max_file_bytes=10)
    workspace.write("a", b"x" * 10)
    assert b"x" * 10 == workspace.read("a")
    (root / "b").write_bytes(b"x" * 11)
    for act in (lambda: workspace.write("a", b"x" * 11), lambda: workspace.read("b")):
        with pytest.raises(ToolError) as caught:
            act()
        assert "too_large" == caught.value.error_type
    workspace.close()


@pytest.mark.parametrize(
    ("path", "error_type"), [("none", "not_found"), ("d", "not_a_file"), ("f/x", "not_a_directory")]
)
def test_read_refused(workspace: Workspace, root: Path, path: str, error_type: str) -> None:
    """What is missing, a directory, and a way through a file have different names."""
    (root / "d").mkdir()
    (root / "f").touch()
    with pytest.raises(ToolError) as caught:
        workspace.read(path)
    assert error_type == caught.value.error_type


def test_entries(workspace: Workspace, root: Path) -> None:
    """Sorted; directories before what is in them; hidden ones and what is in them only if asked for; links as such."""
    for name in ("b/z.txt", "b/a.txt", "a.txt", ".git/config", "b/.hidden"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    (root / "link").symlink_to("b")
    top = [Entry("a.txt", "file"), Entry("b", "directory"), Entry("link", "other")]
    assert top == list(workspace.entries())
    below = [Entry("b/a.txt", "file"), Entry("b/z.txt", "file")]
    assert [*top, *below] == list(workspace.entries(recursive=True))
    assert below == list(workspace.entries("b"))
    hidden = [entry.path for entry in workspace.entries(recursive=True, hidden=True)]
    assert [".git", "a.txt", "b", "link", ".git/config", "b/.hidden", "b/a.txt", "b/z.txt"] == hidden


def test_kind(workspace: Workspace, root: Path) -> None:
    """A file, a directory, or something else."""
    (root / "f").touch()
    (root / "l").symlink_to("f")
    assert ["directory", "file", "other"] == [workspace.kind(path) for path in (".", "f", "l")]


def test_make_directory(workspace: Workspace, root: Path) -> None:
    """With its parents it may be there already; without, it must be new and they must be there."""
    assert (True, False) == (workspace.make_directory("a/b"), workspace.make_directory("a/b"))
    assert workspace.make_directory("a/c", parents=False)
    (root / "file").touch()
    for path, parents, error_type in [
        ("a/b", False, "exists"),
        ("x/y", False, "not_found"),
        ("file", True, "not_a_directory"),
        ("file", False, "exists"),
        (".", True, "exists"),
    ]:
        with pytest.raises(ToolError) as caught:
            workspace.make_directory(path, parents=parents)
        assert error_type == caught.value.error_type
    assert ["a", "a/b", "a/c", "file"] == names(root)


def test_delete(workspace: Workspace, root: Path) -> None:
    """A file goes; a directory, a link and what is not there are refused."""
    (root / "f").touch()
    (root / "d").mkdir()
    (root / "l").symlink_to("f")
    for path, error_type in [("d", "not_a_file"), ("l", "path_refused"), ("none", "not_found")]:
        with pytest.raises(ToolError) as caught:
            workspace.delete(path)
        assert error_type == caught.value.error_type
    workspace.delete("f")
    assert ["d", "l"] == names(root)


def test_move(workspace: Workspace, root: Path) -> None:
    """Files and directories, between directories, with their content; never over what is there."""
    (root / "a").mkdir()
    (root / "a/f").write_text("content")
    (root / "b").mkdir()
    (root / "g").touch()
    workspace.move("a/f", "b/h")
    workspace.move("b", "a/b")
    assert (["a", "a/b", "a/b/h", "g"], "content") == (names(root), (root / "a/b/h").read_text())
    for source, destination, error_type in [
        ("g", "a/b/h", "exists"),
        ("a/b", "g", "exists"),
        ("g", "none/g", "not_found"),
        ("none", "x", "not_found"),
        ("a", "a/b/a", "os_error"),
    ]:
        with pytest.raises(ToolError) as caught:
            workspace.move(source, destination)
        assert error_type == caught.value.error_type
    assert ["a", "a/b", "a/b/h", "g"] == names(root)


def test_a_rule_holds_for_each_change(workspace: Workspace, root: Path) -> None:
    """Both ends of a move, and no directory as a whole."""
    for name in ("a.md", "a.py"):
        (root / name).touch()
    (root / "d.md").mkdir()
    for act in (
        lambda: workspace.write("b.py", b"", rule="*.md"),
        lambda: workspace.delete("a.py", rule="*.md"),
        lambda: workspace.move("a.py", "b.md", rule="*.md"),
        lambda: workspace.move("a.md", "b.py", rule="*.md"),
        lambda: workspace.move("d.md", "e.md", rule="*.md"),
    ):
        with pytest.raises(ToolError) as caught:
            act()
        assert caught.value.error_type in {"file_rule", "not_a_file"}
    assert ["a.md", "a.py", "d.md"] == names(root)
    workspace.move("a.md", "d.md/b.md", rule="*.md")
    workspace.delete("d.md/b.md", rule="*.md")
    assert ["a.py", "d.md"] == names(root)


def test_no_descriptor_is_left_open(workspace: Workspace, root: Path) -> None:
    """Neither after success nor after a refusal."""
    (root / "a").mkdir()
    (root / "l").symlink_to("/")
    before = len(os.listdir("/dev/fd"))
    for path in ("a/f", "a/none/f", "l/f", "../f"):
        for act in (lambda p: workspace.write(p, b"x"), workspace.read, workspace.delete, workspace.make_directory):
            with suppress(ToolError):
                act(path)
    list(workspace.entries(recursive=True))
    assert before == len(os.listdir("/dev/fd"))


def test_a_missing_root_is_refused(tmp_path: Path) -> None:
    """A workspace is an existing directory."""
    with pytest.raises(FileNotFoundError):
        Workspace(tmp_path / "none")
