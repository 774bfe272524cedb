"""``execute_command``: an argument list, in the workspace, without a shell, within limits, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from agent_runtime.tools import sandbox
from agent_runtime.tools.errors import ToolError
from agent_runtime.tools.registry import Call
from agent_runtime.tools.workspace import Workspace

logger = logging.getLogger("agent_runtime.tools")

MAX_OUTPUT = 64 * 1024
GRACE_SECONDS = 3.0

# Where programs and what they need are. Not /etc, /opt, /srv, /var, /home as a whole: secrets live there.
READABLE = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/proc", "/sys/devices/system/cpu"),
    *(
        "/etc/alternatives",
        "/etc/ld.so.cache",
        "/etc/ld.so.conf",
        "/etc/ld.so.conf.d",
        "/etc/ssl",
        "/etc/ca-certificates",
    ),
    *(
        "/etc/passwd",
        "/etc/group",
        "/etc/nsswitch.conf",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/localtime",
        "/etc/mime.types",
    ),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
PATH = "/usr/local/bin:/usr/bin:/bin"

_QUOTED = re.compile(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_SHELL = re.compile(r"[|&;<>()`\n\r]")

Seconds = Annotated[int, Field(ge=1, le=300)]


class CommandTool:
    """Commands in a workspace.

    Args:
        allow_network: let commands open TCP connections. Off by default: a service of this machine, this one's own API
            for instance, may trust whoever comes from this machine.
        environment: added to the few variables that commands get; none of the runtime's own is passed on.
        readable: files and directories that commands may read and run beside the system's programs.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        allow_network: bool = False,
        environment: Mapping[str, str] | None = None,
        readable: tuple[str, ...] = (),
    ) -> None:
        self._workspace = workspace
        self._allow_network = allow_network
        self._environment = dict(environment or {})
        self._readable = [*READABLE, *readable]
        if not sandbox.landlock_version():
            logger.warning(
                "this kernel has no Landlock: a command that was approved can read and write whatever this user can"
            )

    async def execute_command(
        self,
        command: Annotated[str, Field(min_length=1, max_length=10_000)],
        cwd: Annotated[str, Field(min_length=1, max_length=4_096)] = ".",
        timeout: Seconds = 60,
        *,
        call: Call,
    ) -> str:
        """Run a program in the workspace and give its output. There is no shell: no pipes, redirections or variables.

        Args:
            command: the program and its arguments, quoted as for a shell, such as grep -rn "two words" src.
            cwd: the directory to run it in, relative to the workspace.
            timeout: seconds after which it is killed.
        """
        if call.file_rule is not None:
            raise ToolError("file_rule", f"this agent may only change files named {call.file_rule}: no commands")
        argv = argument_list(command)
        scratch = tempfile.mkdtemp(prefix="agent-runtime-")
        try:
            with self._workspace.directory(cwd) as cwd_fd, self._workspace.directory(".") as root_fd:
                code, output = await self._run(argv, cwd_fd, root_fd, scratch, timeout)
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True))
        if code is None:
            raise ToolError(
                "timeout",
                f"was killed after {timeout} s",
                content=f"killed after {timeout} s; output so far:\n{output}",
            )
        if code:
            what = f"ended with status {code}"
            raise ToolError("exit_status", what, content=f"exit status {code}\n{output}")
        return output

    async def _run(
        self, argv: list[str], cwd_fd: int, root_fd: int, scratch: str, seconds: float
    ) -> tuple[int | None, str]:
        """The exit status (None: it took too long) and the output of a command."""
        order = {
            "argv": argv,
            "cwd_fd": cwd_fd,
            "writable": [root_fd, scratch, *DEVICES],
            "readable": self._readable,
            "network": self._allow_network,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(sandbox.__file__).resolve()), json.dumps(order)),
            stdin=asyncio.subprocess.PIPE,  # never written to: its end is the end of the command
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**self._base_environment(scratch), **self._environment},
            pass_fds=(cwd_fd, root_fd),
            start_new_session=True,
        )
        output = _Output(MAX_OUTPUT)
        try:
            async with asyncio.timeout(seconds):
                code = await _finish(process, output)
        except TimeoutError:
            await _end(process, output)
            return None, output.text()
        except BaseException:
            await _end(process, output)
            raise
        _hang_up(process)
        return code, output.text()

    @staticmethod
    def _base_environment(scratch: str) -> dict[str, str]:
        return {
            "PATH": PATH,
            "HOME": scratch,
            "TMPDIR": scratch,
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "NO_COLOR": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
        }


def argument_list(command: str) -> list[str]:
    """The program and its arguments.

    Raises:
        ToolError: ``command_refused``: nothing there, a quote is left open, or it is written for a shell.
    """
    if "\0" in command:
        raise ToolError("command_refused", "contains a NUL character")
    try:
        argv = shlex.split(command)
    except ValueError:
        raise ToolError("command_refused", "has an open quotation or ends with a backslash") from None
    if not argv or not argv[0]:
        raise ToolError("command_refused", "names no program")
    # What a shell would act upon would be taken as plain text here: better no command than another one.
    if _SHELL.search(_QUOTED.sub("", command.strip())):
        raise ToolError(
            "command_refused", "there is no shell: one program a call, without | & ; < > ( ) ` and new lines"
        )
    return argv


class _Output:
    """The beginning and the end of what a command prints, at most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._left_out = 0

    def add(self, data: bytes) -> None:
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        surplus = len(self._tail) - self._half
        if surplus > 0:
            del self._tail[:surplus]
            self._left_out += surplus

    def text(self) -> str:
        gap = f"\n… [{self._left_out} bytes left out] …\n".encode() if self._left_out else b""
        return bytes(self._head + gap + self._tail).decode(errors="replace")


async def _finish(process: asyncio.subprocess.Process, output: _Output) -> int:
    """Take the output until all who could write to it are gone, then the exit status."""
    assert process.stdout is not None
    while data := await process.stdout.read(65_536):
        output.add(data)
    return await process.wait()


def _hang_up(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()


async def _end(process: asyncio.subprocess.Process, output: _Output) -> None:
    """Have the sandbox kill all that the command has started; kill the sandbox if that takes it too long."""
    _hang_up(process)
    try:
        async with asyncio.timeout(GRACE_SECONDS):
            await _finish(process, output)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
