"""``agent-runtime ingest``: files of events into a service, from where the last run stopped.

Beside each file a small note, ``<file>.ingest``, says how many lines the service has acknowledged. It is there while a
run is unfinished: the next run goes on behind it. A finished run removes it, and one more run sends everything again,
which changes nothing: the service knows the ids. Standard input has no note.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import cast

from agent_runtime.sender import Answer, Sender

STDIN = "-"
_HEAD_BYTES = 4_096


class Source:
    """The lines of a file, plain or gzip, or of standard input (``-``).

    Args:
        name: path of the file.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = None if name == STDIN else os.path.getsize(name)
        file = sys.stdin.buffer if name == STDIN else open(name, "rb")  # noqa: SIM115 - see close
        self._file = cast(io.BufferedReader, file)
        self._read = 0
        self._is_gzip = self._file.peek(2)[:2] == b"\x1f\x8b"
        self._lines: Iterable[bytes] = gzip.GzipFile(fileobj=self._file) if self._is_gzip else self._file

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self._read += len(line)
            yield line.rstrip(b"\r\n")

    @property
    def position(self) -> int:
        """How many bytes of the file have been read."""
        return self._file.tell() if self._is_gzip and self.size is not None else self._read

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self.name != STDIN:
            self._file.close()


class Note:
    """What a service has acknowledged of a file; kept beside it.

    Args:
        name: path of the file.
        url: of the service.
    """

    def __init__(self, name: str, url: str) -> None:
        self._path = Path(f"{name}.ingest")
        self._kept = name != STDIN
        self._url = url
        self._head = ""
        if self._kept:
            with open(name, "rb") as file:
                self._head = sha256(file.read(_HEAD_BYTES)).hexdigest()

    def read(self) -> int:
        """How many lines are acknowledged; 0 if there is no note, or if it is about another file or service."""
        try:
            note = json.loads(self._path.read_text()) if self._kept else {}
        except (OSError, ValueError):
            return 0
        same = isinstance(note, dict) and (note.get("url"), note.get("head")) == (self._url, self._head)
        return int(note["lines"]) if same else 0

    def write(self, lines: int) -> None:
        """Keep the number of acknowledged lines; if nothing can be written beside the file, a later run begins anew."""
        if not self._kept:
            return
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            fresh.write_text(json.dumps({"url": self._url, "head": self._head, "lines": lines}))
            fresh.replace(self._path)
        except OSError:
            self._kept = False

    def remove(self) -> None:
        """The file is done."""
        if self._kept:
            self._path.unlink(missing_ok=True)


async def ingest(source: Source, note: Note, sender: Sender, batch: int, progress: Callable[[int], None]) -> Answer:
    """Send a file from where the last run stopped.

    Args:
        batch: lines sent at a time.
        progress: called with the bytes read so far.

    Returns:
        What became of the lines of this run; indexes are line numbers, from 1.

    Raises:
        NotSent: the rest is still to be sent; the note says from where. OSError, EOFError: the file can't be read.
    """
    total, done = Answer(), note.read()
    number = 0
    lines: list[bytes] = []
    first = done + 1
    for line in source:
        number += 1
        if number <= done:
            continue
        lines.append(line)
        if len(lines) >= batch:
            await _send(lines, first, sender, total)
            note.write(number)
            progress(source.position)
            lines, first = [], number + 1
    if lines:
        await _send(lines, first, sender, total)
    progress(source.position)
    note.remove()
    return total


async def _send(lines: list[bytes], first: int, sender: Sender, total: Answer) -> None:
    """Send the lines that are not blank; the service counts only those."""
    numbered = [(number, line) for number, line in enumerate(lines, first) if line.strip()]
    if not numbered:
        return
    answer = await sender.send([line for _, line in numbered])
    total.accepted += answer.accepted
    total.duplicates += answer.duplicates
    total.rejected += [(numbered[index][0], error) for index, error in answer.rejected]
