"""Finding the elements of a JSON body without reading them, so that one that can't be read is refused alone."""

from __future__ import annotations

import re
from typing import NamedTuple

# Possessive throughout: no input makes it backtrack. A lone quote is the last alternative: a string without an end.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|"|[\[{]++|[\]}]++|,++', re.DOTALL)
_SPACE = b" \t\r\n"


class Framed(NamedTuple):
    """One element of a body: its own text, and how deep it is nested."""

    text: bytes
    depth: int


class Unframed(ValueError):
    """The body's brackets and strings don't end where they must; nothing can be told apart in it."""


def elements(body: bytes, limit: int) -> list[Framed]:
    """The elements of the array that ``body`` is, or ``body`` itself as the only one if it is no array.

    Args:
        body: JSON, or nearly: whatever stands between the outer array's commas is an element.
        limit: stop one behind this many, for the caller to refuse the whole.

    Raises:
        Unframed: says where.
    """
    is_array = body.lstrip(_SPACE)[:1] == b"["
    top = 1 if is_array else 0
    found: list[Framed] = []
    depth = deepest = 0
    start = 0
    for match in _TOKENS.finditer(body):
        mark = body[match.start()]
        if mark == 0x22:
            if match.end() - match.start() == 1:
                raise Unframed(f"the string at byte {match.start()} has no end")
        elif mark in b"[{":
            if is_array and not depth:
                start = match.start() + 1
            elif not depth and deepest:
                raise Unframed(f"more follows at byte {match.start()}")
            depth += match.end() - match.start()
            deepest = max(deepest, depth)
        elif mark in b"]}":
            depth -= match.end() - match.start()
            if depth < 0:
                raise Unframed(f"a bracket too many is closed at byte {match.end() - 1}")
            if is_array and not depth:
                if body[match.end() :].strip(_SPACE):
                    raise Unframed(f"more follows at byte {match.end()}")
                last = body[start : match.end() - 1]
                if found or last.strip(_SPACE):
                    found.append(Framed(last, deepest - top))
                return found
        elif depth == top and is_array:
            for comma in range(match.start(), match.end()):
                found.append(Framed(body[start:comma], deepest - top))
                start, deepest = comma + 1, depth
                if len(found) > limit:
                    return found
    if depth:
        raise Unframed(f"{depth} brackets are not closed at its end")
    return [Framed(body, deepest)]
