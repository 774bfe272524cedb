"""The SQLite store: durable appends beside a bare ``executemany``, cost as it grows, and one session among a million.

Run by itself it takes how many events to grow to: ``python -m benchmarks.bench_store 100000``.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from agent_runtime.events.agent_events import AgentSwitchedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.llm_events import LLMRequestCompletedEvent
from agent_runtime.events.store.rows import COLUMNS, rows_of
from agent_runtime.events.store.sqlite import SqliteStore
from agent_runtime.events.tool_events import ToolExecutionCompletedEvent

BATCH = 500
ROUNDS = 25
TURN = 10  # events of one turn; five turns are a session
SESSION = 50
MILLION = 1_000_000
TABLE = """
CREATE TABLE events (position INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, recorded_ns INTEGER NOT NULL,
    event_type TEXT NOT NULL, time_us INTEGER NOT NULL, session_id TEXT, correlation_id TEXT, causation_id TEXT,
    source TEXT NOT NULL, version TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX by_session ON events (session_id);
CREATE INDEX by_correlation ON events (correlation_id);
CREATE INDEX by_type ON events (event_type);
"""


def rows(largest: int = MILLION) -> list[dict[str, Any]]:
    """Times are µs an event, medians; the growing store is filled up to ``largest`` events, at NORMAL to save time."""
    with _folder() as folder:
        return [*asyncio.run(_durable(folder)), *_growing(folder, largest)]


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bench-store-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _events(start: int, count: int = BATCH) -> list[BaseEvent]:
    """Events as agents make them: ten to a turn, five turns to a session."""
    made: list[BaseEvent] = []
    for number in range(start, start + count):
        ids: Any = {"session_id": f"session-{number // SESSION}", "correlation_id": f"{number // TURN:032x}"}
        if number % TURN == 0:
            made.append(AgentSwitchedEvent(from_agent="orchestrator", to_agent="coder", reason="routed", **ids))
        elif number % 2:
            made.append(
                LLMRequestCompletedEvent(
                    model="gpt-4o-mini",
                    duration_ms=812.5,
                    prompt_tokens=900,
                    completion_tokens=80,
                    request_id=f"r{number}",
                    **ids,
                )
            )
        else:
            made.append(
                ToolExecutionCompletedEvent(
                    tool_name="read_file", call_id=f"c{number}", duration_ms=12.25, result_length=2048, **ids
                )
            )
    return made


async def _durable(folder: Path) -> list[dict[str, Any]]:
    """Batches of 500 at FULL: through the bus and without it, beside sqlite3 with rows that are made already."""
    ours_path, bare_path = folder / "ours.db", folder / "bare.db"
    store = SqliteStore(ours_path)
    bus = EventBus(store)
    bare = sqlite3.connect(bare_path, isolation_level=None)
    bare.execute("PRAGMA journal_mode = WAL")
    bare.execute("PRAGMA synchronous = FULL")
    bare.executescript(TABLE)
    insert = f"INSERT INTO events ({COLUMNS}) VALUES ({','.join('?' * 11)})"
    times: dict[str, list[float]] = {"through the bus": [], "store alone": [], "bare": []}
    for number in range(ROUNDS):
        through_bus, alone = _events(number * 2 * BATCH), _events((number * 2 + 1) * BATCH)
        prepared = rows_of(_events(number * BATCH), number * BATCH, 1)
        began = perf_counter()
        await bus.publish_many(through_bus)
        times["through the bus"].append((perf_counter() - began) / BATCH * 1e6)
        began = perf_counter()
        store.append(alone)
        times["store alone"].append((perf_counter() - began) / BATCH * 1e6)
        began = perf_counter()
        bare.execute("BEGIN IMMEDIATE")
        bare.executemany(insert, prepared)
        bare.execute("COMMIT")
        times["bare"].append((perf_counter() - began) / BATCH * 1e6)
    await bus.close()
    store.close()
    bare.close()
    bare_us = median(times.pop("bare"))
    return [
        _row(
            f"durable append of 500 at FULL, {name}",
            median(values),
            "sqlite3.executemany of the same rows",
            bare_us,
            bar,
        )
        for (name, values), bar in zip(times.items(), (3.0, None), strict=True)
    ]


def _growing(folder: Path, largest: int) -> list[dict[str, Any]]:
    """What an append costs at each size, and how long a page of one session or of one type takes at the largest."""
    store = SqliteStore(folder / "growing.db", "NORMAL")
    costs: dict[int, float] = {}
    size = 0
    for mark in (largest // 100, largest // 10, largest):
        window: list[float] = []
        while size < mark:
            events = _events(size)
            began = perf_counter()
            store.append(events)
            window.append((perf_counter() - began) / BATCH * 1e6)
            size += BATCH
        # What it costs near that size: a mean, so that the log's own checkpoints count, but without the worst batches,
        # so that other work on the machine does not.
        last = sorted(window[-200:])
        kept = last[: -max(1, len(last) // 20)]
        costs[mark] = sum(kept) / len(kept)
    first, *later = costs.items()
    found = [
        _row(f"append of 500, at {mark:,} events", cost, f"the same at {first[0]:,}", first[1], 2.0)
        for mark, cost in later
    ]
    queries = {
        "50 events of one session": {"session_id": f"session-{size // SESSION // 2}"},
        "the newest 50 of two types": {"event_types": ["agent_switched", "tool_execution_completed"], "newest": True},
    }
    connection = sqlite3.connect(folder / "growing.db")
    bare = "SELECT * FROM events WHERE session_id = ? ORDER BY position LIMIT 50"
    bare_us = _repeat(lambda: connection.execute(bare, (f"session-{size // SESSION // 2}",)).fetchall())
    for work, query in queries.items():
        if len(store.query(**query, limit=50)) != 50:  # type: ignore[arg-type]
            raise AssertionError(f"{work}: not found")
        ours_us = _repeat(lambda query=query: store.query(**query, limit=50))  # type: ignore[misc]
        found.append(_row(f"{work} among {size:,}", ours_us, "SELECT of that session, rows only", bare_us, None))
    connection.close()
    store.close()
    return found


def _repeat(work: Any) -> float:
    times = []
    for _ in range(200):
        began = perf_counter()
        work()
        times.append((perf_counter() - began) * 1e6)
    return median(times)


def _row(work: str, ours_us: float, yardstick: str, yardstick_us: float, bar: float | None) -> dict[str, Any]:
    return {
        "work": work,
        "yardstick": yardstick,
        "ours_us": ours_us,
        "yardstick_us": yardstick_us,
        "ratio": ours_us / yardstick_us,
        "bar": bar,
    }


if __name__ == "__main__":
    for each in rows(int(sys.argv[1]) if len(sys.argv) > 1 else MILLION):
        print(each)
