"""The file tools: text in and out of a ``Workspace``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from io import StringIO
from typing import Annotated, Any

from pydantic import Field

from agent_runtime.tools.errors import ToolError
from agent_runtime.tools.registry import Call
from agent_runtime.tools.search import LineSearch
from agent_runtime.tools.workspace import Workspace

MAX_LISTED = 2_000
MAX_SEARCHED_FILE = 2 * 1024 * 1024
MAX_SEARCHED = 64 * 1024 * 1024

# Not whatever Python can decode: some codecs (idna, punycode) take quadratic time, and some are no text.
ENCODINGS = frozenset(
    {
        *("utf-8", "utf8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "ascii", "us-ascii", "latin-1", "latin1"),
        *("iso-8859-1", "iso-8859-5", "iso-8859-15", "cp1250", "cp1251", "cp1252", "cp866", "koi8-r", "koi8-u"),
        *("windows-1250", "windows-1251", "windows-1252", "gbk", "gb18030", "big5", "shift-jis", "euc-jp", "euc-kr"),
    }
)

PathText = Annotated[str, Field(min_length=1, max_length=4_096)]
Encoding = Annotated[str, Field(max_length=32)]
Line = Annotated[int, Field(ge=1)]
Glob = Annotated[str, Field(min_length=1, max_length=200)]
Query = Annotated[str, Field(min_length=1, max_length=1_000)]
Results = Annotated[int, Field(ge=1, le=1_000)]


class FileTools:
    """The tools that read and change files.

    Args:
        search_seconds: how long one search may take.
    """

    def __init__(self, workspace: Workspace, *, search_seconds: float = 5.0) -> None:
        self._workspace = workspace
        self._search_seconds = search_seconds

    def functions(self) -> list[Callable[..., Any]]:
        """All of them, for a registry."""
        return [
            *(self.read_file, self.write_file, self.list_files, self.create_directory, self.search_in_code),
            *(self.delete_file, self.move_file),
        ]

    def read_file(
        self,
        path: PathText,
        encoding: Encoding = "utf-8",
        start_line: Line | None = None,
        end_line: Line | None = None,
    ) -> str:
        """Read a text file of the workspace, or some of its lines.

        Args:
            path: relative to the workspace, such as src/main.py.
            encoding: such as utf-8, utf-16, latin-1 or cp1251.
            start_line: the first line wanted, counted from 1.
            end_line: the last line wanted.
        """
        text = _decode(self._workspace.read(path), _known(encoding), path)
        if start_line is None and end_line is None:
            return text
        lines = list(StringIO(text))  # only \n ends a line here, as in search_in_code
        first, last = start_line or 1, min(end_line or len(lines), len(lines))
        if first > last:
            raise ToolError("invalid_arguments", "there are no such lines", where=f"{path} has {len(lines)} lines")
        return "".join(lines[first - 1 : last])

    def write_file(
        self,
        path: PathText,
        content: str,
        encoding: Encoding = "utf-8",
        create_dirs: bool = False,
        backup: bool = False,
        *,
        call: Call,
    ) -> str:
        """Create a file in the workspace, or replace all of its content.

        Args:
            path: relative to the workspace.
            content: the whole new content.
            encoding: such as utf-8, utf-16, latin-1 or cp1251.
            create_dirs: create the directories that are missing above it.
            backup: keep what is replaced beside it, as notes.bak.md for notes.md.
        """
        try:
            data = content.encode(_known(encoding))
        except UnicodeEncodeError:
            raise ToolError("encoding", "the content has characters that this encoding has not", where=path) from None
        written = self._workspace.write(path, data, create_dirs=create_dirs, backup=backup, rule=call.file_rule)
        done = f"{'replaced' if written.replaced else 'created'} {path}: {len(data)} bytes"
        return f"{done}; the old content is in {written.backup}" if written.backup else done

    def list_files(
        self, path: PathText, recursive: bool = False, include_hidden: bool = False, pattern: Glob | None = None
    ) -> str:
        """List what a directory of the workspace holds, one path a line; directories end with a slash.

        Args:
            path: relative to the workspace; . is the workspace itself.
            recursive: with all that is below it.
            include_hidden: with what begins with a dot.
            pattern: only files that match this glob, such as *.py or src/*.py.
        """
        lines: list[str] = []
        for entry in self._workspace.entries(path, recursive=recursive, hidden=include_hidden):
            if pattern is not None and not (entry.kind == "file" and _matches(entry.path, pattern)):
                continue
            if len(lines) == MAX_LISTED:
                lines.append(f"… the list ends here, at {MAX_LISTED}; narrow it with path or pattern")
                break
            # A name can hold anything, also what would look like another line.
            shown = entry.path if entry.path.isprintable() else ascii(entry.path)
            lines.append(shown + "/" if entry.kind == "directory" else shown)
        return "\n".join(lines)

    def create_directory(self, path: PathText, recursive: bool = True) -> str:
        """Create a directory in the workspace.

        Args:
            path: relative to the workspace.
            recursive: with the directories above it; it is then no error if it exists already.
        """
        return f"created {path}" if self._workspace.make_directory(path, parents=recursive) else f"{path} was there"

    def search_in_code(
        self,
        query: Query,
        path: PathText = ".",
        file_pattern: Glob = "*",
        case_sensitive: bool = False,
        regex: bool = False,
        max_results: Results = 100,
    ) -> str:
        """Find the lines of text files that contain a text, as path:line: text; hidden files are left out.

        Args:
            query: what to look for.
            path: a directory or a file, relative to the workspace.
            file_pattern: only in files that match this glob, such as *.py or src/*.py.
            case_sensitive: tell upper from lower case.
            regex: the query is a regular expression, as Python writes them.
            max_results: how many lines at most.
        """
        found: list[str] = []
        pattern = query if regex else re.escape(query)
        with LineSearch(pattern, ignore_case=not case_sensitive, seconds=self._search_seconds) as search:
            for name, text in self._texts(path, file_pattern):
                if text is None:
                    found.append("… the search ends here: there is too much text; narrow it with path or file_pattern")
                    break
                found += [f"{name}:{n}: {line}" for n, line in search.matches(text, max_results - len(found))]
                if len(found) >= max_results:
                    found.append(f"… the search ends here, at {max_results} lines")
                    break
        return "\n".join(found) or "nothing found"

    def delete_file(self, path: PathText, *, call: Call) -> str:
        """Delete a file of the workspace; not a directory.

        Args:
            path: relative to the workspace.
        """
        self._workspace.delete(path, rule=call.file_rule)
        return f"deleted {path}"

    def move_file(self, source: PathText, destination: PathText, *, call: Call) -> str:
        """Move or rename a file or a directory within the workspace; the destination must not exist.

        Args:
            source: relative to the workspace.
            destination: the new path, with the name.
        """
        self._workspace.move(source, destination, rule=call.file_rule)
        return f"moved {source} to {destination}"

    def _texts(self, path: str, pattern: str) -> Iterator[tuple[str, str | None]]:
        """Names and texts to search; None for the text where it becomes too much."""
        if self._workspace.kind(path) == "file":
            names = iter([path])
        else:
            entries = self._workspace.entries(path, recursive=True)
            names = (entry.path for entry in entries if entry.kind == "file" and _matches(entry.path, pattern))
        total = 0
        for name in names:
            try:
                data = self._workspace.read(name)
            except ToolError:
                continue  # too large, gone, or not for us
            if len(data) > MAX_SEARCHED_FILE or b"\0" in data or not name.isprintable():
                continue
            total += len(data)
            if total > MAX_SEARCHED:
                yield name, None
                return
            yield name, data.decode(errors="replace")


def _known(encoding: str) -> str:
    name = encoding.lower().replace("_", "-")
    if name not in ENCODINGS:
        raise ToolError("invalid_arguments", f"encoding: is not one of {', '.join(sorted(ENCODINGS))}")
    return name


def _decode(data: bytes, encoding: str, path: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise ToolError("encoding", f"is not text in {encoding}", where=path) from None
    if "\0" in text:
        raise ToolError("encoding", "is not a text file", where=path)
    return text


def _matches(path: str, pattern: str) -> bool:
    """A glob over the name; one with a slash, over the path (where ``*`` may stand for slashes too)."""
    pattern = pattern.removeprefix("./").removeprefix("**/")
    return fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern)
