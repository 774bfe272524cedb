import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.events.event_bus import EventBus
from agent_runtime.tools import ToolExecutor, Workspace, sandbox, standard_tools
from agent_runtime.tools.errors import ToolError
from tests.tools.attacks import ATTACKS, CANARY, Attack, prepare, snapshot

SECRET = "secret-of-the-runtime-41c9"
needs_landlock = pytest.mark.skipif(not sandbox.landlock_version(), reason="this kernel has no Landlock")


def at(value: Any, top: Path) -> Any:
    """The argument with its placeholders filled in."""
    if isinstance(value, str):
        return value.replace("{outside}", str(top / "outside")).replace("{pid}", str(os.getpid()))
    return value


@pytest.mark.parametrize(
    "attack",
    [pytest.param(attack, marks=needs_landlock if attack.kernel else (), id=attack.name) for attack in ATTACKS],
)
async def test_attack(attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, nothing outside is touched, and nothing of it is seen in a result or an event."""
    monkeypatch.setenv("AGENT_RUNTIME__INTERNAL_API_KEY", SECRET)
    bus, workspace = EventBus(), Workspace(prepare(tmp_path))
    executor = ToolExecutor(bus, standard_tools(workspace))
    before = snapshot(tmp_path)
    with bus.capture_events() as events:
        result = await executor.execute(
            session_id="s-1",
            agent="architect",
            tool_name=attack.tool,
            call_id="call-1",
            arguments={name: at(value, tmp_path) for name, value in attack.arguments.items()},
            file_rule=attack.rule,
        )
    workspace.close()
    assert before == snapshot(tmp_path)
    if attack.refused:
        assert (False, True) == (result.ok, bool(result.error_type))
        assert "tool_execution_failed" == events[-1].event_type
    seen = result.content + "".join(event.to_json() for event in events)
    assert [] == [word for word in (CANARY, SECRET, "owned") if word in seen]
    assert (tmp_path / "workspace/src/code.py").read_text() == "print('hello')\n"


def test_the_corpus_is_large_and_each_attack_has_a_name() -> None:
    """At least thirty, and none stands in for another."""
    assert len(ATTACKS) == len({attack.name for attack in ATTACKS})
    assert len(ATTACKS) >= 30


async def test_the_attacks_would_work_without_the_defence(tmp_path: Path) -> None:
    """The ground is laid so that the traps do lead outside: each path that exists reads the secret when just opened."""
    workspace = prepare(tmp_path)
    reads = [attack for attack in ATTACKS if attack.tool == "read_file"]
    seen = 0
    for attack in reads:
        path = at(attack.arguments["path"], tmp_path)
        if "\0" not in path and (workspace / path).is_file():
            seen += CANARY in (workspace / path).read_text()
    assert 16 == seen


# Exchanges two paths as fast as it can, each time in one step (RENAME_EXCHANGE), until it is killed.
EXCHANGE = """
import ctypes, sys
libc = ctypes.CDLL(None)
one, other = (path.encode() for path in sys.argv[1:])
print(libc.renameat2(-100, one, -100, other, 2), flush=True)
while True:
    libc.renameat2(-100, one, -100, other, 2)
"""


@contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    """A process that exchanges two paths all the time."""
    command = [sys.executable, "-I", "-S", "-c", EXCHANGE, str(one), str(other)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"0\n":
                pytest.skip("this file system can't exchange two paths in one step")
            yield
        finally:
            process.kill()


def attempts(root: Path, act: Callable[[Workspace], Any]) -> list[str]:
    """What many tries of one act say."""
    workspace = Workspace(root)
    seen = []
    for _ in range(1_000):
        try:
            seen.append(str(act(workspace)))
        except ToolError as error:
            seen.append(str(error))
    workspace.close()
    return seen


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda w: w.read("door/secret.txt").decode(), id="read"),
        pytest.param(lambda w: w.write("door/new.txt", b"owned", backup=True), id="write"),
        pytest.param(lambda w: w.write("door/a/b/new.txt", b"owned", create_dirs=True), id="write deeper"),
        pytest.param(lambda w: w.make_directory("door/new/deeper"), id="create a directory"),
        pytest.param(lambda w: w.delete("door/victim.md"), id="delete"),
        pytest.param(lambda w: w.move("notes.md", "door/notes.md"), id="move out"),
        pytest.param(lambda w: w.move("door/victim.md", "victim.md"), id="move in"),
        pytest.param(lambda w: [entry.path for entry in w.entries(".", recursive=True)], id="list"),
    ],
)
def test_race(act: Callable[[Workspace], Any], tmp_path: Path) -> None:
    """While a directory on the way is exchanged for a link and back, nothing outside is read or changed."""
    root = prepare(tmp_path)
    (root / "door").mkdir()
    (root / "door" / "secret.txt").write_text("harmless")
    (root / "link").symlink_to("../outside")
    before = snapshot(tmp_path)
    with exchanging(root / "door", root / "link"):
        seen = attempts(root, act)
    assert before == snapshot(tmp_path)
    assert [] == [text for text in seen if CANARY in text or "door/dir" in text]


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda w: w.read("target.md").decode(), id="read"),
        pytest.param(lambda w: w.write("target.md", b"owned", backup=True), id="write"),
        pytest.param(lambda w: [w.delete("target.md"), w.write("target.md", b"new")], id="delete"),
        pytest.param(lambda w: [w.move("target.md", "mine.md"), w.move("mine.md", "target.md")], id="move"),
    ],
)
def test_race_for_a_file(act: Callable[[Workspace], Any], tmp_path: Path) -> None:
    """While a file is exchanged for a link and back, what the link points to is neither read nor changed."""
    root = prepare(tmp_path)
    (root / "target.md").write_text("harmless")
    (root / "link").symlink_to("../outside/secret.txt")
    before = snapshot(tmp_path)
    with exchanging(root / "target.md", root / "link"):
        seen = attempts(root, act)
    assert before == snapshot(tmp_path)
    assert [] == [text for text in seen if CANARY in text]


def test_the_workspace_stays_where_it_was_opened(tmp_path: Path) -> None:
    """A link put in the place of the workspace itself leads nowhere."""
    root = prepare(tmp_path)
    workspace = Workspace(root)
    root.rename(tmp_path / "moved")
    root.symlink_to("outside")
    workspace.write("new.txt", b"inside")
    workspace.close()
    assert "inside" == (tmp_path / "moved" / "new.txt").read_text()
    assert not (tmp_path / "outside" / "new.txt").exists()
