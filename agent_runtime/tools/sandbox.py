"""Runs one command and outlives none of it. A process of its own: run by its path, it imports nothing of ours.

Its one argument is JSON: ``{"argv", "cwd_fd", "writable": [fd or path], "readable": [path], "network": bool}``. It

- supervises: when its standard input ends (the runtime hung up, or died) or the command does, whatever is left of the
  command's processes is killed, also those that have left the process group or their parent;
- confines the command with Landlock (https://docs.kernel.org/userspace-api/landlock.html), as far as the kernel can:
  writing beneath the workspace only, reading there and where programs are, no TCP, no signals to and no look into
  processes outside. Unix sockets and UDP are out of Landlock's reach;
- takes all capabilities from it: root's would let it look into processes all the same.

It exits with the command's status, 128 + the signal that ended it, or 127 if it can't be run.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
import threading
from typing import Any

CANNOT_RUN = 127
MAX_FILE_BYTES = 1 << 30

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1

# Rights, as <linux/landlock.h> numbers them, and the version that brought the last of them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_LOOK = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 0b11  # bind, connect; from version 4
_SCOPES = 0b11  # abstract Unix sockets, signals; from version 6


def landlock_version() -> int:
    """The kernel's version of Landlock; 0 if it has none."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def confine(writable: list[int | str], readable: list[str], *, network: bool) -> None:
    """Restrict this process, and all that it will start, for good. Does nothing without Landlock.

    Args:
        writable: directories and files, as paths or file descriptors, with all that is beneath them.
        readable: the same, to read and to execute. Paths that do not exist are passed over.

    Raises:
        OSError: the kernel refused.
    """
    version = landlock_version()
    if not version:
        return
    rights = max(known for since, known in _RIGHTS_BY_VERSION.items() if since <= version)
    attributes = struct.pack("=Q", rights)
    if version >= 4:
        attributes += struct.pack("=Q", 0 if network else _TCP)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    ruleset = _checked(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    for place, allowed in [*((place, rights) for place in writable), *((place, _LOOK) for place in readable)]:
        _allow(ruleset, place, allowed & rights)
    if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    _checked(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)


def drop_capabilities() -> None:
    """Give up all capabilities, and what would bring them back to root with the next program."""
    if sys.platform != "linux":
        return
    for capability in range(64):
        _libc().prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for who has none, and beyond the last
    version, this_process, none = 0x20080522, 0, bytes(24)
    _libc().capset(struct.pack("=Ii", version, this_process), none)


def _allow(ruleset: int, place: int | str, rights: int) -> None:
    try:
        fd = os.open(f"/proc/self/fd/{place}" if isinstance(place, int) else place, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(f"/proc/self/fd/{fd}"):
        rights &= _OF_FILES
    rule = struct.pack("=Qi", rights, fd)
    _checked(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0))
    os.close(fd)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: Any) -> int:
    function = _libc().syscall
    function.restype = ctypes.c_long
    return int(function(ctypes.c_long(number), *arguments))


def _checked(number: int, *arguments: Any) -> int:
    result = _syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _become(order: dict[str, Any]) -> None:
    """In the child: turn into the command."""
    argv = order["argv"]
    try:
        if sys.platform == "linux":  # in case the supervisor itself is killed
            _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and the command would inherit that
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
        confine(order["writable"], order["readable"], network=order["network"])
        drop_capabilities()
        os.execvpe(argv[0], argv, dict(os.environ))
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode(errors="replace"))
    finally:
        os._exit(CANNOT_RUN)


def _kill_children(first: int) -> None:
    """Kill all child processes, and their orphans as they become children of this one, until there is none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(first, signal.SIGKILL)
    while True:
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    me = str(os.getpid()).encode()
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit():
                    with open(f"/proc/{name}/stat", "rb") as file:
                        # pid (name) state parent …, and the name may hold parentheses
                        if file.read().rpartition(b")")[2].split()[1] == me:
                            found.append(int(name))
    return found


def main() -> None:
    """Run the command, and wait for its end or for the end of standard input."""
    order = json.loads(sys.argv[1])
    for fd in [order["cwd_fd"], *(place for place in order["writable"] if isinstance(place, int))]:
        os.set_inheritable(fd, False)
    os.fchdir(order["cwd_fd"])
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        _become(order)

    running = threading.Lock()

    def hang_up() -> None:
        while os.read(0, 1):
            pass
        with running, contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    threading.Thread(target=hang_up, daemon=True).start()
    # The child is left a zombie until hang_up can't touch it any more, so that its number can't become another's.
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    running.acquire()
    _kill_children(child)
    assert ended is not None
    os._exit(ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status)


if __name__ == "__main__":
    main()
