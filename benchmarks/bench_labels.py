"""A publisher that names a new tool with every call, a million times: what that does to the series, the memory and a
scrape."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.tool_events import ToolExecutionCompletedEvent, ToolExecutionRequestedEvent
from telemetry import attach

NAMES = int(os.environ.get("BENCH_NAMES", "1000000"))
MOST_SERIES, LONGEST_SCRAPE_US = 2_000, 200_000.0
CHUNK = 500


def rows() -> list[dict[str, Any]]:
    """The rows of the report: the yardsticks are the bars themselves."""
    telemetry = attach(EventBus(), environ={"OTEL_TRACES_EXPORTER": "none"})
    position, early_mb = 0, 0.0
    for start in range(0, NAMES, CHUNK // 2):
        events: list[BaseEvent] = []
        for number in range(start, start + CHUNK // 2):
            call: dict[str, Any] = {"tool_name": f"tool_{number}", "call_id": f"call_{number}", "session_id": "s"}
            events.append(ToolExecutionRequestedEvent(arguments={}, agent="coder", **call))
            events.append(ToolExecutionCompletedEvent(duration_ms=1.5 * (number % 7_000), **call))
        for event in events:
            position += 1
            event.position, event.recorded_ns = position, event.time_us * 1_000
        telemetry.metrics.apply(events)
        if start == NAMES // 10 // CHUNK * CHUNK:
            early_mb = _resident_mb()
    times = []
    for _ in range(9):
        began = perf_counter()
        body, _ = telemetry.render("application/openmetrics-text")
        times.append((perf_counter() - began) * 1e6)
    series = sum(not line.startswith(b"#") for line in body.splitlines())
    note = f"resident {early_mb:.0f} MB after a tenth, {_resident_mb():.0f} MB at the end; {series:,} series"
    return [
        {
            "work": f"series after {NAMES:,} distinct tool names (a count, not a time)",
            "yardstick": "the bar itself",
            "ours_us": float(series),
            "yardstick_us": float(MOST_SERIES),
            "ratio": series / MOST_SERIES,
            "bar": 1.0,
            "note": note,
        },
        {
            "work": "a scrape then",
            "yardstick": "the bar itself",
            "ours_us": median(times),
            "yardstick_us": LONGEST_SCRAPE_US,
            "ratio": median(times) / LONGEST_SCRAPE_US,
            "bar": 1.0,
        },
    ]


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
