"""A corpus of attacks on the tools, and the ground they are tried on.

``{outside}`` in an argument stands for the path of a directory beside the workspace, ``{pid}`` for this process.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CANARY = "canary-7f3a-must-not-be-seen"


@dataclass(frozen=True)
class Attack:
    """One call.

    Attributes:
        refused: it must fail; otherwise it may also do something harmless.
        kernel: what stops it is the kernel, so it is no test where there is no Landlock.
    """

    name: str
    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)
    rule: str | None = None
    refused: bool = True
    kernel: bool = False


def prepare(top: Path) -> Path:
    """Lay out ``workspace`` with traps in it, and beside it what must not be touched; the workspace's path."""
    outside, workspace = top / "outside", top / "workspace"
    (outside / "dir").mkdir(parents=True)
    (outside / "secret.txt").write_text(CANARY)
    (outside / "victim.md").write_text("# Not to be changed\n")
    (outside / "dir" / "inner.txt").write_text(CANARY)
    (top / "workspace-evil").mkdir()
    (top / "workspace-evil" / "secret.txt").write_text(CANARY)
    workspace.mkdir()
    (workspace / "src").mkdir()
    (workspace / "src" / "code.py").write_text("print('hello')\n")
    (workspace / "notes.md").write_text("# Notes\n")
    (workspace / "folder.md").mkdir()
    (workspace / "folder.md" / "code.py").write_text("print('hello')\n")
    links = {
        "to_file": "../outside/secret.txt",
        "to_file_absolute": str(outside / "secret.txt"),
        "to_directory": "../outside",
        "to_directory_absolute": str(outside),
        "to_parent": "..",
        "to_root": "/",
        "to_link": "to_directory",
        "to_itself": "to_itself",
        "to_nothing.md": "../outside/new.md",
        "to_victim.md": "../outside/victim.md",
        "to_code.md": "src/code.py",
        "to_cwd": "/proc/self/cwd",
        "to_process_root": "/proc/self/root",
        "src/up_and_out": "../../outside",
    }
    for name, target in links.items():
        (workspace / name).symlink_to(target)
    os.link(outside / "victim.md", workspace / "hard.md")
    os.mkfifo(workspace / "pipe")
    return workspace


def snapshot(top: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All that is beside the workspace: kind and mode, size, time of change, content."""
    found = {}
    for place in ("outside", "workspace-evil"):
        for path in [top / place, *sorted((top / place).rglob("*"))]:
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(top))] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    found["."] = (0, 0, 0, "\n".join(sorted(path.name for path in top.iterdir())).encode())
    return found


def _reads(name: str, path: str) -> list[Attack]:
    return [
        Attack(f"read {name}", "read_file", {"path": path}),
        Attack(f"search {name}", "search_in_code", {"query": "canary", "path": path}),
    ]


def _changes(name: str, path: str) -> list[Attack]:
    return [
        Attack(f"write {name}", "write_file", {"path": path, "content": "owned", "create_dirs": True, "backup": True}),
        Attack(f"delete {name}", "delete_file", {"path": path}),
        Attack(f"move {name} in", "move_file", {"source": path, "destination": "stolen.txt"}),
        Attack(f"move over {name}", "move_file", {"source": "notes.md", "destination": path}),
    ]


_PLACES = {
    "by ..": "../outside/secret.txt",
    "by .. further down": "src/../../outside/secret.txt",
    "by .. behind a dot": "./src/./../../outside/secret.txt",
    "by .. behind what is missing": "missing/../../outside/secret.txt",
    "by a name that begins as ours": "../workspace-evil/secret.txt",
    "by an absolute path": "{outside}/secret.txt",
    "by two slashes": "/{outside}/secret.txt",
    "by a link": "to_file",
    "by an absolute link": "to_file_absolute",
    "by a linked directory": "to_directory/secret.txt",
    "by an absolutely linked directory": "to_directory_absolute/secret.txt",
    "by a link to the parent": "to_parent/outside/secret.txt",
    "by a link to the root": "to_root{outside}/secret.txt",
    "by a link to a link": "to_link/secret.txt",
    "by a link below": "src/up_and_out/secret.txt",
    "by /proc": "/proc/self/root{outside}/secret.txt",
    "by a link into /proc": "to_process_root{outside}/secret.txt",
    "by a link that loops": "to_itself",
    "by a NUL": "notes.md\0/../../outside/secret.txt",
    "by backslashes": "..\\outside\\secret.txt",
    "by a new line": "notes.md\n../outside/secret.txt",
    "by a right-to-left mark": "\u202e../outside/secret.txt",
}

PATH_ATTACKS = [
    *(attack for name, path in _PLACES.items() for attack in [*_reads(name, path), *_changes(name, path)]),
    Attack("read a percent-encoded path", "read_file", {"path": "%2e%2e/outside/secret.txt"}),
    Attack("read wide dots", "read_file", {"path": "\uff0e\uff0e/outside/secret.txt"}),
    Attack("read a home", "read_file", {"path": "~/.ssh/id_rsa"}),
    Attack("read the working directory of the process", "read_file", {"path": "to_cwd/pyproject.toml"}),
    Attack("read the runtime's environment", "read_file", {"path": "/proc/self/environ"}),
    Attack("read a pipe for ever", "read_file", {"path": "pipe"}),
    Attack("read the workspace as a file", "read_file", {"path": "."}),
    Attack("read with a codec that is slow", "read_file", {"path": "notes.md", "encoding": "idna"}),
    Attack("read with a codec that is none", "read_file", {"path": "notes.md", "encoding": "../../evil"}),
    Attack("list the parent", "list_files", {"path": ".."}),
    Attack("list the root", "list_files", {"path": "/"}),
    Attack("list a linked directory", "list_files", {"path": "to_directory", "recursive": True}),
    Attack("list the parent by a link", "list_files", {"path": "to_parent"}),
    Attack(
        "list everything below", "list_files", {"path": ".", "recursive": True, "include_hidden": True}, refused=False
    ),
    Attack("list by a pattern that climbs", "list_files", {"path": ".", "pattern": "../outside/*"}, refused=False),
    Attack("search everything below", "search_in_code", {"query": "canary-.*-seen", "regex": True}, refused=False),
    Attack(
        "search by a pattern that climbs", "search_in_code", {"query": "canary", "file_pattern": "../*"}, refused=False
    ),
    Attack("create a directory outside", "create_directory", {"path": "../outside/new"}),
    Attack("create a directory by a link", "create_directory", {"path": "to_directory/new/deeper"}),
    Attack("create a directory at an absolute path", "create_directory", {"path": "{outside}/new"}),
    Attack("create a directory over a dangling link", "create_directory", {"path": "to_nothing.md"}),
    Attack("create a file by a dangling link", "write_file", {"path": "to_nothing.md", "content": "owned"}),
    Attack(
        "create directories by a link", "write_file", {"path": "to_directory/a/b", "content": "x", "create_dirs": True}
    ),
    Attack("write over a directory", "write_file", {"path": "src", "content": "owned"}),
    Attack("write into a pipe", "write_file", {"path": "pipe", "content": "owned"}),
    Attack("write by a hard link", "write_file", {"path": "hard.md", "content": "owned"}, refused=False),
    Attack("delete a hard link", "delete_file", {"path": "hard.md"}, refused=False),
    Attack("write a huge file", "write_file", {"path": "huge", "content": "x" * (10 * 1024 * 1024 + 1)}),
    Attack("delete the workspace", "delete_file", {"path": "."}),
    Attack("delete a directory", "delete_file", {"path": "src"}),
    Attack("move the workspace", "move_file", {"source": ".", "destination": "src/all"}),
    Attack("move a directory into itself", "move_file", {"source": "src", "destination": "src/deeper"}),
    Attack("move a directory out", "move_file", {"source": "src", "destination": "../outside/src"}),
    Attack("move a directory over a link", "move_file", {"source": "src", "destination": "to_directory"}),
    Attack("move a link out of the way", "move_file", {"source": "to_directory", "destination": "mine"}),
    Attack("walk very deep", "create_directory", {"path": "a/" * 2_000 + "a"}),
    Attack("name very long", "write_file", {"path": "x" * 300, "content": ""}),
]

RULE_ATTACKS = [
    Attack(name, tool, arguments, rule="*.md")
    for name, tool, arguments in [
        ("the name outside", "write_file", {"path": "../../etc/x.md", "content": "owned"}),
        ("the name, absolute", "write_file", {"path": "/etc/x.md", "content": "owned"}),
        ("another name", "write_file", {"path": "src/code.py", "content": "owned"}),
        ("the name of a directory above", "write_file", {"path": "folder.md/code.py", "content": "owned"}),
        ("the name and then ..", "write_file", {"path": "folder.md/../src/code.py", "content": "owned"}),
        ("a slash after it", "write_file", {"path": "folder.md/", "content": "owned"}),
        ("a dot after it", "write_file", {"path": "src/code.py/.", "content": "owned"}),
        ("a NUL before it", "write_file", {"path": "src/code.py\0.md", "content": "owned"}),
        ("a new line before it", "write_file", {"path": "src/code.py\n.md", "content": "owned"}),
        ("a link that has it", "write_file", {"path": "to_code.md", "content": "owned"}),
        ("a link out that has it", "write_file", {"path": "to_victim.md", "content": "owned"}),
        ("another case", "write_file", {"path": "NOTES.MD", "content": "owned"}),
        ("more behind it", "write_file", {"path": "notes.md.py", "content": "owned"}),
        ("deleting another", "delete_file", {"path": "src/code.py"}),
        ("deleting by a link that has it", "delete_file", {"path": "to_code.md"}),
        ("moving another to it", "move_file", {"source": "src/code.py", "destination": "code.md"}),
        ("moving it to another", "move_file", {"source": "notes.md", "destination": "notes.py"}),
        ("moving a directory that has it", "move_file", {"source": "folder.md", "destination": "other.md"}),
        ("a command", "execute_command", {"command": "touch src/code.py"}),
    ]
]

COMMAND_ATTACKS = [
    Attack(f"run {name}", "execute_command", {"command": command, **more}, kernel=kernel)
    for name, command, more, kernel in [
        ("two by a semicolon", "true; touch ../outside/new", {}, False),
        ("two by &&", "true && touch ../outside/new", {}, False),
        ("two by ||", "false || touch ../outside/new", {}, False),
        ("two by a new line", "true\ntouch ../outside/new", {}, False),
        ("two by a carriage return", "true\rtouch ../outside/new", {}, False),
        ("a pipe", "cat ../outside/secret.txt | cat", {}, False),
        ("a redirection", "echo owned > ../outside/new", {}, False),
        ("a redirection without blanks", "echo owned>../outside/new", {}, False),
        ("an input", "cat < ../outside/secret.txt", {}, False),
        ("in the background", "sleep 1000 &", {}, False),
        ("a substitution", "echo $(cat ../outside/secret.txt)", {}, False),
        ("backticks", "echo `cat ../outside/secret.txt`", {}, False),
        ("an open quotation", "echo 'open", {}, False),
        ("a NUL", "echo a\0b", {}, False),
        ("nothing", "   ", {}, False),
        ("an empty name", "'' touch ../outside/new", {}, False),
        ("a variable before it", "LD_PRELOAD=/evil.so cat notes.md", {}, False),
        ("in the parent", "ls", {"cwd": ".."}, False),
        ("in a linked directory", "ls", {"cwd": "to_directory"}, False),
        ("in an absolute place", "ls", {"cwd": "{outside}"}, False),
        ("too long", "sleep 1000", {"timeout": 301}, False),
        ("for less than nothing", "true", {"timeout": -1}, False),
        ("a read outside", "cat ../outside/secret.txt", {}, True),
        ("a read at an absolute path", "cat {outside}/secret.txt", {}, True),
        ("a read by a link", "cat to_directory/secret.txt", {}, True),
        ("a read by /proc", "cat /proc/self/root{outside}/secret.txt", {}, True),
        ("a listing outside", "ls ../outside", {}, True),
        ("a write outside", "touch ../outside/new", {}, True),
        ("a write by a link", "touch to_directory/new", {}, True),
        ("a write over a linked file", "cp notes.md to_victim.md", {}, True),
        ("a write by a hard link made for it", "ln ../outside/victim.md mine.md", {}, True),
        ("a truncation", "truncate -s 0 ../outside/victim.md", {}, True),
        ("a deletion", "rm -rf ../outside/dir", {}, True),
        ("a deletion of the parent", "rm -rf {outside}/..", {}, True),
        ("a move in", "mv ../outside/secret.txt stolen.txt", {}, True),
        ("a move out", "mv notes.md ../outside/notes.md", {}, True),
        ("a change of mode", "sh -c 'chmod 777 ../outside/new || touch ../outside/new'", {}, True),
        ("a shell that writes outside", "sh -c 'echo owned > ../outside/new'", {}, True),
        ("a shell that reads outside", "sh -c 'cat < ../outside/secret.txt'", {}, True),
        ("a program of its own", "sh -c 'cp /bin/cat mycat && ./mycat ../outside/secret.txt'", {}, True),
        ("a look into the runtime's environment", "cat /proc/{pid}/environ", {}, True),
        ("a look into the runtime's files", "cat /proc/{pid}/root{outside}/secret.txt", {}, True),
        ("a look into the runtime's directory", "ls /proc/{pid}/cwd/", {}, True),
        ("a signal to the runtime", "sh -c 'kill -9 {pid}'", {}, True),
    ]
]

ATTACKS = [*PATH_ATTACKS, *RULE_ATTACKS, *COMMAND_ATTACKS]
