"""A turn's wall time, divided without overlap into what it was spent on."""

from __future__ import annotations

from collections.abc import Sequence

# Start and end in microseconds, the phase, and which call it belongs to.
Interval = tuple[int, int, str, tuple[str, ...]]
Pair = tuple[int, int]

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
    calls: dict[tuple[str, ...], list[Pair]] = {}
    waits: dict[tuple[str, ...], list[Pair]] = {}
    own: dict[str, list[Pair]] = {phase: [] for phase in PHASES}
    for start, end, phase, call in intervals:
        if phase == "tool":
            calls.setdefault(call, []).append((start, end))
        else:
            own[phase].append((start, end))
            if phase == "human":
                waits.setdefault(call, []).append((start, end))
    for call, parts in calls.items():
        own["tool"] += _without(_union(parts), _union(waits[call])) if call in waits else parts
    covered: list[Pair] = []
    phases: dict[str, int] = {}
    so_far = 0
    for phase in PHASES:
        covered = _union(covered + own[phase])
        length = sum(end - start for start, end in covered)
        phases[phase] = length - so_far
        so_far = length
    return phases


def _without(intervals: list[Pair], holes: list[Pair]) -> list[Pair]:
    """What the holes leave of the intervals; both in order, without overlap."""
    rest: list[Pair] = []
    first = 0
    for start, end in intervals:
        while first < len(holes) and holes[first][1] <= start:
            first += 1
        place = first
        while place < len(holes) and holes[place][0] < end:
            if holes[place][0] > start:
                rest.append((start, holes[place][0]))
            start = max(start, holes[place][1])
            place += 1
        if start < end:
            rest.append((start, end))
    return rest


def _union(intervals: list[Pair]) -> list[Pair]:
    merged: list[Pair] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged
