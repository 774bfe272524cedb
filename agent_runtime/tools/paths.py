"""Paths as a model writes them: what is refused before the system is asked, and what its refusals are called."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from agent_runtime.tools.errors import ToolError

MAX_COMPONENTS = 64

_REASONS = {
    errno.ENOENT: ("not_found", "does not exist"),
    errno.EEXIST: ("exists", "exists already"),
    errno.ENOTEMPTY: ("exists", "exists already, and is not empty"),
    errno.ENOTDIR: ("not_a_directory", "is no directory, or goes through something that is none"),
    errno.EISDIR: ("not_a_file", "is a directory"),
    errno.ELOOP: ("path_refused", "goes through a symbolic link, which is never followed"),
    errno.ENAMETOOLONG: ("path_refused", "has a name that is too long"),
    errno.EACCES: ("permission_denied", "may not be accessed"),
    errno.EPERM: ("permission_denied", "may not be changed"),
}


def components(path: str) -> tuple[str, ...]:
    """The names that ``path`` goes through; none for the workspace itself.

    Raises:
        ToolError: ``path_refused``.
    """
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if not path:
        what = "is empty; the workspace itself is ."
    elif path.startswith("/"):
        what = "is absolute; paths are relative to the workspace"
    elif ".." in parts:
        what = "contains .., which may lead out of the workspace"
    elif "\\" in path or not path.isprintable():
        what = "contains a backslash or a character that can't be printed"
    elif len(parts) > MAX_COMPONENTS:
        what = f"has more than {MAX_COMPONENTS} parts"
    else:
        return parts
    raise ToolError("path_refused", what, where=path if path.isprintable() else ascii(path))


def permits(rule: str | None, name: str) -> bool:
    """Whether a file of this name may be changed under a rule, a glob such as ``*.md``; case counts."""
    return rule is None or fnmatchcase(name, rule)


def file_components(path: str, rule: str | None = None) -> tuple[str, ...]:
    """``components`` of a file, which under a rule may be changed.

    Raises:
        ToolError: ``path_refused``, ``not_a_file``, ``file_rule``.
    """
    parts = components(path)
    if not parts:
        raise ToolError("not_a_file", "is the workspace itself", where=path)
    if not permits(rule, parts[-1]):
        raise ToolError("file_rule", f"this agent may only change files named {rule}", where=path)
    return parts


@contextmanager
def explained(path: str) -> Iterator[None]:
    """What the system says, in our words; no path of the machine is in it."""
    try:
        yield
    except OSError as error:
        known = _REASONS.get(error.errno or 0)
        error_type, what = known or ("os_error", os.strerror(error.errno or 0).lower())
        raise ToolError(error_type, what, where=path) from None
    except ToolError as error:
        if error.content == error.what:
            raise ToolError(error.error_type, error.what, where=path) from None
        raise
