"""Finds the lines that match a regular expression. A process of its own: run by its path, it imports nothing of ours.

Python's ``re`` can take for ever, holds the interpreter's lock while it does, and can't be interrupted. A process can
be killed. It reads one line of JSON, ``{"pattern", "ignore_case", "seconds"}``, and answers ``{}`` or ``{"error"}``.
Then for each text, ``<bytes> <limit>`` on a line and the text as UTF-8, it answers ``[[line number, line], …]``.
"""

from __future__ import annotations

import json
import re
import resource
import sys

MAX_LINE = 300
MAX_MEMORY = 1 << 30


def matching_lines(pattern: re.Pattern[str], text: str, limit: int) -> list[tuple[int, str]]:
    """The first ``limit`` lines in which the pattern occurs, numbered from 1, each cut to ``MAX_LINE`` characters."""
    found: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if pattern.search(line):
            found.append((number, line.strip()[:MAX_LINE]))
            if len(found) >= limit:
                break
    return found


def main() -> None:
    """Answer until the other side hangs up."""
    requests, answers = sys.stdin.buffer, sys.stdout
    order = json.loads(requests.readline())
    # If the runtime dies, nobody is left to kill this process: the kernel does it.
    resource.setrlimit(resource.RLIMIT_CPU, (order["seconds"] + 1, order["seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    try:
        pattern = re.compile(order["pattern"], re.IGNORECASE if order["ignore_case"] else 0)
    except (re.error, OverflowError, RecursionError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print("{}", file=answers, flush=True)
    while header := requests.readline():
        size, limit = map(int, header.split())
        text = requests.read(size).decode()
        print(json.dumps(matching_lines(pattern, text, limit)), file=answers, flush=True)


if __name__ == "__main__":
    main()
