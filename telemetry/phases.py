"""A turn's wall time, divided without overlap into what it was spent on."""

from __future__ import annotations

from collections.abc import Sequence

# Start and end in microseconds, the phase, and which call it belongs to.
Interval = tuple[int, int, str, tuple[str, ...]]

PHASES = ("model", "tool", "human")
REST = "runtime"


def divide(intervals: Sequence[Interval], total: int) -> dict[str, int]:
    """The microseconds of each phase, and of ``runtime``, which is the rest of ``total``.

    Where intervals overlap, work counts before the wait: model, then tool, then human. Within a tool's interval the
    wait for its own approval (same call) is not the tool's.

    Args:
        intervals: by start, none of them empty, all within the turn.
    """
    phases = dict.fromkeys(PHASES, 0)
    until = 0
    for start, end, phase, _ in intervals:
        if start < until:
            phases = _divide_overlapping(intervals)
            break
        phases[phase] += end - start
        until = end
    phases[REST] = total - sum(phases.values())
    return phases


def _divide_overlapping(intervals: Sequence[Interval]) -> dict[str, int]:
    waits: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for start, end, phase, call in intervals:
        if phase == "human":
            waits.setdefault(call, []).append((start, end))
    own: dict[str, list[tuple[int, int]]] = {phase: [] for phase in PHASES}
    for start, end, phase, call in intervals:
        parts = [(start, end)]
        if phase == "tool":
            for wait in waits.get(call, ()):
                parts = _without(parts, wait)
        own[phase] += parts
    covered: list[tuple[int, int]] = []
    phases: dict[str, int] = {}
    so_far = 0
    for phase in PHASES:
        covered = _union(covered + own[phase])
        length = sum(end - start for start, end in covered)
        phases[phase] = length - so_far
        so_far = length
    return phases


def _without(intervals: list[tuple[int, int]], hole: tuple[int, int]) -> list[tuple[int, int]]:
    rest = []
    for start, end in intervals:
        rest += [(start, min(end, hole[0])), (max(start, hole[1]), end)]
    return [(start, end) for start, end in rest if end > start]


def _union(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged
