"""The runtime's side of ``line_search``: starts the process, feeds it, and kills it at the deadline."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent_runtime.tools import line_search
from agent_runtime.tools.errors import ToolError

# -I and -S: nothing of the environment, the working directory or site-packages has a say in it.
PYTHON = (sys.executable, "-I", "-S")


class LineSearch:
    """One regular expression looked for in many texts, within a time limit for all of them; for use in a thread.

    Args:
        pattern: a regular expression of Python's ``re``.
        seconds: how long the ``with`` block may take.

    Raises:
        ToolError: on entry ``invalid_regex``; in the block ``timeout``, or ``search_failed`` (out of memory).
    """

    def __init__(self, pattern: str, *, ignore_case: bool, seconds: float) -> None:
        self._seconds = seconds
        self._order = {"pattern": pattern, "ignore_case": ignore_case, "seconds": math.ceil(seconds)}
        self._late = False

    def __enter__(self) -> Self:
        command = [*PYTHON, str(Path(line_search.__file__).resolve())]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, env={}, cwd="/")
        self._timer = threading.Timer(self._seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()
        try:
            answer = self._ask(json.dumps(self._order).encode() + b"\n")
            if "error" in answer:
                raise ToolError("invalid_regex", "is no regular expression", content=f"query: {answer['error']}")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def matches(self, text: str, limit: int) -> list[tuple[int, str]]:
        """See ``line_search.matching_lines``."""
        data = text.encode()
        return [(number, line) for number, line in self._ask(b"%d %d\n%b" % (len(data), limit, data))]

    def _ask(self, request: bytes) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, so there is no answer either
            self._process.stdin.write(request)
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer.endswith(b"\n"):
            return json.loads(answer)
        if self._late:
            raise ToolError("timeout", f"took longer than {self._seconds:g} s; narrow it with path or file_pattern")
        raise ToolError("search_failed", "the search ended before its time")

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def _end(self) -> None:
        self._timer.cancel()
        self._process.kill()
        # What is buffered for a process that is gone can't be flushed.
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()
