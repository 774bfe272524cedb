import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent_runtime.tools import Call, ToolError, Workspace, sandbox
from agent_runtime.tools.command import MAX_OUTPUT, CommandTool, argument_list
from tests.tools.conftest import Run

needs_landlock = pytest.mark.skipif(sandbox.landlock_version() < 4, reason="this kernel's Landlock knows no TCP")

# Says its number, then stays.
STAY = "sh -c 'echo $$ > pid; exec sleep 1000'"


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_gone(pid: int) -> None:
    """Returns when the process has ended; a test that waits for ever is stopped by its time limit."""
    async with asyncio.timeout(30):
        while alive(pid):
            await asyncio.sleep(0.01)


async def number_in(path: Path) -> int:
    """The number that somebody is about to write into a file."""
    async with asyncio.timeout(30):
        while not (path.exists() and path.read_text().endswith("\n")):
            await asyncio.sleep(0.01)
    return int(path.read_text())


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ls", ["ls"]),
        ("grep -rn 'two words' src", ["grep", "-rn", "two words", "src"]),
        ("echo \"a;b\" 'c|d' e\\;f", ["echo", "a;b", "c|d", "e;f"]),
        ("find . -exec wc -l {} \\;", ["find", ".", "-exec", "wc", "-l", "{}", ";"]),
        ("echo $HOME *.py", ["echo", "$HOME", "*.py"]),
        ("python3 -c 'print(1)\nprint(2)'", ["python3", "-c", "print(1)\nprint(2)"]),
        ('echo "it\'s > that" \'and "(this)"\'', ["echo", "it's > that", 'and "(this)"']),
        (" ls \n", ["ls"]),
    ],
)
def test_argument_list(command: str, expected: list[str]) -> None:
    """Split as a shell would, and nothing else that a shell does."""
    assert expected == argument_list(command)


@pytest.mark.parametrize(
    "command", ["a;b", "a&b", "a|b", "a>b", "a<b", "(a)", "a`b`", "a\nb", "$(a)", "'a", "a\\", "''", "#;"]
)
def test_what_is_written_for_a_shell_is_refused(command: str) -> None:
    """Better than to run something else."""
    with pytest.raises(ToolError) as caught:
        argument_list(command)
    assert "command_refused" == caught.value.error_type


async def test_output_and_directory(run: Run, root: Path) -> None:
    """Both streams, in the directory asked for, beneath the workspace."""
    (root / "src").mkdir()
    result = await run("execute_command", command="sh -c 'pwd; echo wrong >&2'", cwd="src")
    assert (True, f"{root / 'src'}\nwrong\n") == (result.ok, result.content)


async def test_files_are_written_in_the_workspace(run: Run, root: Path) -> None:
    """And in a directory of the command's own, which goes with it."""
    result = await run(
        "execute_command", command="sh -c 'echo kept > a; echo gone > $TMPDIR/b; cat $TMPDIR/b; echo $HOME'"
    )
    assert "kept\n" == (root / "a").read_text()
    said, home = result.content.split()
    assert ("gone", False) == (said, Path(home).exists())


@pytest.mark.parametrize(
    ("command", "status", "output"),
    [
        ("sh -c 'echo said; exit 3'", 3, "said\n"),
        ("false", 1, ""),
        ("no-such-program --now", 127, "no-such-program: No such file or directory\n"),
        ("sh -c 'kill -TERM $$'", 143, ""),
    ],
)
async def test_a_status_is_a_failure_with_output(run: Run, command: str, status: int, output: str) -> None:
    """The model reads both."""
    result = await run("execute_command", command=command)
    assert (False, "exit_status", f"exit status {status}\n{output}") == (result.ok, result.error_type, result.content)


async def test_the_environment_is_scrubbed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the runtime's is passed on."""
    monkeypatch.setenv("AGENT_RUNTIME__INTERNAL_API_KEY", "a-key-of-ours")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere")
    result = await run("execute_command", command="env")
    names = {line.partition("=")[0] for line in result.content.splitlines()}
    expected = {"PATH", "HOME", "TMPDIR", "LANG", "TERM", "NO_COLOR", "GIT_TERMINAL_PROMPT", "GIT_CONFIG_NOSYSTEM"}
    assert expected == names


async def test_standard_input_is_empty(run: Run) -> None:
    """A program that asks is not waited for."""
    assert (True, "") == ((result := await run("execute_command", command="cat")).ok, result.content)


async def test_no_descriptors_are_passed_on(run: Run) -> None:
    """Beside the three streams there is the listing's own."""
    assert "0\n1\n2\n3\n" == (await run("execute_command", command="ls /proc/self/fd")).content


async def test_output_is_capped(run: Run) -> None:
    """Its beginning and its end stay; what prints for ever fills no memory."""
    result = await run(
        "execute_command", command="sh -c 'echo begin; head -c 1000000 /dev/zero | tr \"\\0\" x; echo end'"
    )
    assert result.ok
    assert result.content.startswith("begin\nxxx")
    assert result.content.endswith("xxxend\n")
    assert f"… [{1_000_010 - MAX_OUTPUT} bytes left out] …" in result.content


async def test_a_timeout_kills_all_of_it(run: Run, root: Path) -> None:
    """Also what left the process group; the output so far is told."""
    command = "sh -c 'echo $$ > one; setsid sh -c \"echo \\$\\$ > two; exec sleep 1000\" & echo begun; yes > /dev/null'"
    result = await run("execute_command", command=command, timeout=2)
    assert (False, "timeout") == (result.ok, result.error_type)
    assert "killed after 2 s; output so far:\nbegun\n" == result.content
    assert [False, False] == [alive(await number_in(root / name)) for name in ("one", "two")]


async def test_what_is_left_in_the_background_ends_with_the_command(run: Run, root: Path) -> None:
    """Daemons too."""
    command = (
        "sh -c '(setsid sh -c \"echo \\$\\$ > pid; exec sleep 1000\" &) ; while ! test -s pid; do :; done; echo done'"
    )
    result = await run("execute_command", command=command)
    assert "done\n" == result.content
    assert not alive(await number_in(root / "pid"))


async def test_cancelling_kills_it(run: Run, root: Path) -> None:
    """When the task is over, so is the command."""
    task = asyncio.create_task(run("execute_command", command=STAY))
    pid = await number_in(root / "pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pid)


RUNTIME = f"""
import asyncio, sys
from agent_runtime.tools import Call, Workspace
from agent_runtime.tools.command import CommandTool
asyncio.run(CommandTool(Workspace(sys.argv[1])).execute_command({STAY!r}, call=Call()))
"""


async def test_a_command_does_not_outlive_the_runtime(root: Path, tmp_path: Path) -> None:
    """A runtime that is killed without warning leaves nothing running."""
    repository = Path(__file__).parent.parent.parent
    command, environment = [sys.executable, "-c", RUNTIME, str(root)], {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=repository, env=environment) as runtime:
        pid = await number_in(root / "pid")
        runtime.send_signal(signal.SIGKILL)
    await until_gone(pid)
    assert not alive(pid)


CONNECT = "python3 -c 'import socket, sys; socket.create_connection((\"127.0.0.1\", int(sys.argv[1])))' "


@needs_landlock
async def test_the_network_is_closed_unless_opened(workspace: Workspace) -> None:
    """A command can't decide on its own approval by calling the API of this machine."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ToolError) as caught:
        await CommandTool(workspace).execute_command(f"{CONNECT}{port}", call=Call())
    assert "PermissionError" in caught.value.content
    assert "" == await CommandTool(workspace, allow_network=True).execute_command(f"{CONNECT}{port}", call=Call())
    server.close()
    await server.wait_closed()


async def test_what_is_given_to_all_commands(workspace: Workspace, tmp_path: Path) -> None:
    """Variables, and places to read beside the system's."""
    (tmp_path / "toolchain").write_text("here")
    tool = CommandTool(workspace, environment={"CC": "clang"}, readable=(str(tmp_path / "toolchain"),))
    assert "here clang\n" == await tool.execute_command("sh -c 'echo $(cat ../toolchain) $CC'", call=Call())


async def test_no_commands_under_a_file_rule(workspace: Workspace, root: Path) -> None:
    """They could not be held to it."""
    with pytest.raises(ToolError) as caught:
        await CommandTool(workspace).execute_command("touch a.md", call=Call(file_rule="*.md"))
    assert ("file_rule", []) == (caught.value.error_type, list(root.iterdir()))


@pytest.mark.parametrize(("timeout", "ok"), [(1, True), (300, True), (301, False), (0, False), ("5", False)])
async def test_the_time_limit_has_limits(run: Run, timeout: object, ok: bool) -> None:
    """From 1 to 300 seconds."""
    assert ok == (await run("execute_command", command="true", timeout=timeout)).ok


async def test_many_at_once(run: Run) -> None:
    """Each with its own output, and nothing left behind."""
    before = len(os.listdir("/dev/fd"))
    results = await asyncio.gather(*(run("execute_command", command=f"echo {n}") for n in range(20)))
    assert [f"{n}\n" for n in range(20)] == [result.content for result in results]
    assert before == len(os.listdir("/dev/fd"))
