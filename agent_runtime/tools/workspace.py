"""A directory that cannot be left.

Every path is walked one component at a time, each opened beneath the directory before it and without following a
symbolic link (``openat`` with ``O_NOFOLLOW``). So there is nothing to resolve and nothing to race: whatever is renamed
or replaced while a path is walked, the walk stays beneath the root's own file descriptor, and the path that was asked
for is the path that is used. A hard link is a file like any other; writing it leaves its other names alone.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from agent_runtime.tools.errors import ToolError
from agent_runtime.tools.paths import MAX_COMPONENTS, components, explained, file_components

MAX_ENTRIES = 100_000

_WALK = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a named pipe would wait for its other end.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in the workspace: its path, and what it is: ``file``, ``directory`` or ``other``."""

    path: str
    kind: str


@dataclass(frozen=True, slots=True)
class Written:
    """What writing a file did: whether it replaced one, and where that one is kept (empty: nowhere)."""

    replaced: bool
    backup: str = ""


class Workspace:
    """The directory that tools work in.

    Args:
        root: an existing directory. It is opened once; whatever happens to its path later, this directory is meant.
        max_file_bytes: no file that is larger is read or written.

    Every method raises ``ToolError`` (``path_refused``, ``file_rule``, ``not_found``, ``exists``, ``not_a_file``,
    ``not_a_directory``, ``too_large``, ``permission_denied``, ``os_error``) and has then changed nothing, except that
    directories which it was to create may be there.
    """

    def __init__(self, root: Path | str, *, max_file_bytes: int = 10 * 1024 * 1024) -> None:
        self.root = Path(root).resolve()
        self.max_file_bytes = max_file_bytes
        self._fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the root's file descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- looking -------------------------------------------------------------------------------------------------------

    @contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """A file descriptor of a directory, for the length of a ``with`` block."""
        with explained(path), self._walk(components(path)) as fd:
            yield fd

    def kind(self, path: str) -> str:
        """``file``, ``directory`` or ``other``."""
        parts = components(path)
        if not parts:
            return "directory"
        with explained(path), self._walk(parts[:-1]) as parent:
            return _kind(os.stat(parts[-1], dir_fd=parent, follow_symlinks=False).st_mode)

    def read(self, path: str) -> bytes:
        """A file's content."""
        parts = file_components(path)
        with explained(path), self._walk(parts[:-1]) as parent:
            return self._read(parent, parts[-1])

    def entries(self, path: str = ".", *, recursive: bool = False, hidden: bool = False) -> Iterator[Entry]:
        """What a directory holds, sorted by name, each directory before what is in it; symbolic links are ``other``.

        Args:
            hidden: with what has a dot before its name, and what is in it.
        """
        top = components(path)
        waiting = [top]
        while waiting:
            parts = waiting.pop()
            try:
                with explained(path), self._walk(parts) as fd, os.scandir(fd) as found:
                    here = sorted((entry.name, _entry_kind(entry)) for entry in islice(found, MAX_ENTRIES))
            except ToolError:
                if parts == top:
                    raise
                continue  # gone, or replaced, since its parent was read
            here = [(name, kind) for name, kind in here if hidden or not name.startswith(".")]
            for name, kind in here:
                yield Entry("/".join((*parts, name)), kind)
            if recursive and len(parts) < MAX_COMPONENTS:
                waiting.extend((*parts, name) for name, kind in reversed(here) if kind == "directory")

    # -- changing ------------------------------------------------------------------------------------------------------

    def write(
        self, path: str, data: bytes, *, create_dirs: bool = False, backup: bool = False, rule: str | None = None
    ) -> Written:
        """Create or replace a file, at once: whoever reads it meanwhile sees the old one or the new one.

        Args:
            create_dirs: create the directories that are missing above it.
            backup: keep what is replaced as ``<stem>.bak<suffix>`` beside it (so that a rule such as ``*.md`` holds for
                it too), instead of the backup before.
            rule: see ``Call.file_rule``.
        """
        parts = file_components(path, rule)
        if len(data) > self.max_file_bytes:
            raise ToolError("too_large", f"would be larger than {self.max_file_bytes} bytes", where=path)
        kept = ""
        with explained(path), self._walk(parts[:-1], create=create_dirs) as parent:
            old = _file_status(parent, parts[-1])
            if old is not None and backup:
                kept = "/".join((*parts[:-1], f"{Path(parts[-1]).stem}.bak{Path(parts[-1]).suffix}"))
                *_, kept_name = file_components(kept, rule)
                _file_status(parent, kept_name)
                _replace(parent, kept_name, self._read(parent, parts[-1]), old)
            _replace(parent, parts[-1], data, old)
        return Written(old is not None, kept)

    def make_directory(self, path: str, *, parents: bool = True) -> bool:
        """Create a directory.

        Args:
            parents: with those above it; it may then exist already.

        Returns:
            Whether it was created.
        """
        parts = components(path)
        with explained(path):
            if not parts:
                raise FileExistsError(errno.EEXIST, "")
            with self._walk(parts[:-1], create=parents) as parent:
                try:
                    os.mkdir(parts[-1], dir_fd=parent)
                except FileExistsError:
                    if not parents:
                        raise
                    os.close(_enter(parent, parts[-1]))
                    return False
        return True

    def delete(self, path: str, *, rule: str | None = None) -> None:
        """Delete a file; directories and symbolic links are refused."""
        parts = file_components(path, rule)
        with explained(path), self._walk(parts[:-1]) as parent:
            if _file_status(parent, parts[-1]) is None:
                raise FileNotFoundError(errno.ENOENT, "")
            os.unlink(parts[-1], dir_fd=parent)

    def move(self, source: str, destination: str, *, rule: str | None = None) -> None:
        """Move or rename a file or a directory; the destination must not exist. Under a rule, files only."""
        old, new = file_components(source, rule), file_components(destination, rule)
        with explained(source), self._walk(old[:-1]) as here, explained(destination), self._walk(new[:-1]) as there:
            with explained(source):
                mode = os.stat(old[-1], dir_fd=here, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode) and rule is None:
                if _exists(there, new[-1]):
                    raise FileExistsError(errno.EEXIST, "")
                os.rename(old[-1], new[-1], src_dir_fd=here, dst_dir_fd=there)
            elif stat.S_ISREG(mode):
                # A link is made only where nothing is; a rename would replace what came there meanwhile.
                os.link(old[-1], new[-1], src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
                os.unlink(old[-1], dir_fd=here)
            else:
                raise ToolError("not_a_file", "is not a regular file", where=source)

    # -- beneath the root ----------------------------------------------------------------------------------------------

    @contextmanager
    def _walk(self, parts: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
        fd = os.dup(self._fd)
        try:
            for name in parts:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=fd)
                below = _enter(fd, name)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _read(self, parent: int, name: str) -> bytes:
        with open(name, "rb", opener=lambda name, _: os.open(name, _READ, dir_fd=parent)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ToolError("not_a_file", "is not a regular file")
            data = file.read(self.max_file_bytes + 1)
        if len(data) > self.max_file_bytes:
            raise ToolError("too_large", f"is larger than {self.max_file_bytes} bytes")
        return data


def _enter(parent: int, name: str) -> int:
    try:
        return os.open(name, _WALK, dir_fd=parent)
    except NotADirectoryError:
        # What the kernel says of a symbolic link, too, when it was asked for a directory.
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, "") from None
        raise


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _file_status(parent: int, name: str) -> os.stat_result | None:
    """The status of a regular file, None where there is nothing; anything else is refused."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "")
    if not stat.S_ISREG(status.st_mode):
        raise ToolError("not_a_file", "is not a regular file")
    return status


def _replace(parent: int, name: str, data: bytes, old: os.stat_result | None) -> None:
    """Write beside, then rename over; a hard link's other names keep the old content."""
    temporary = f".{secrets.token_hex(8)}.tmp"
    fd = os.open(temporary, _CREATE, 0o666, dir_fd=parent)
    try:
        with open(fd, "wb") as file:
            if old is not None:
                os.fchmod(fd, old.st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent)
        raise


def _kind(mode: int) -> str:
    return "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def _entry_kind(entry: os.DirEntry[str]) -> str:
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"
