"""Runtime mode under 200 concurrent streams on the scripted model, of which a third are left in the middle.

``BENCH_SECONDS`` (60) is how long. See ``runtime_load.own_times`` for what is measured, and how.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.runtime_load import Load, RuntimeProcess, own_times, without_end

SECONDS = float(os.environ.get("BENCH_SECONDS", "60"))
USERS = 200
DELAY_SECONDS = 0.02


def rows() -> list[dict[str, Any]]:
    """The rows of the report."""
    with tempfile.TemporaryDirectory(prefix="agent-runtime-bench-") as folder:
        with RuntimeProcess(Path(folder), DELAY_SECONDS) as server:
            before = server.probe()
            load = Load(server, USERS, SECONDS)
            load.run()
            leaked = server.leaked(before["tasks"])
            after = server.probe()
        events = server.events()
        detached = server.log.count("Failed to detach context")
    cuts = quantiles(own_times(events, after["delays"]), n=100)
    seen = ", ".join(f"{count} {how}" for how, count in load.seen.most_common())
    # The first quarter fills the caches and the feed, which are bounded.
    quarters = [load.resident_mb[len(load.resident_mb) * part // 4 - 1] for part in (1, 2, 3, 4)]
    note = (
        f"{SECONDS:.0f} s; streams: {seen}; median {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.0f} ms over "
        f"{len(events):,} events: the time since the event before it in the turn, less what the scripted model was "
        f"told to wait (20 ms a word). HTTP spans a stream: {after['most_spans']}; tasks leaked: "
        f"{sum(leaked.values())}; beginnings without an end: {len(without_end(events))}; “Failed to detach context”: "
        f"{detached}; resident MB after each quarter: {', '.join(f'{mb:.0f}' for mb in quarters)}"
    )
    return [
        {
            "work": f"runtime mode, {USERS} streams at once: own time an event, p99",
            "yardstick": "none",
            "ours_us": cuts[98] * 1e6,
            "note": note,
        },
        {
            "work": "the same: resident memory at the end, as a ratio",
            "yardstick": "after the first quarter (kB for µs)",
            "ours_us": quarters[3] * 1000,
            "yardstick_us": quarters[0] * 1000,
            "ratio": quarters[3] / quarters[0],
            "bar": 1.2,
        },
    ]
