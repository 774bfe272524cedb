"""A bus over each kind of store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.store.base import EventStore
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.store.sqlite import SqliteStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    """A fresh store of each kind."""
    made: EventStore = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "events.db", "NORMAL")
    yield made
    made.close()


@pytest.fixture
async def bus(store: EventStore) -> AsyncIterator[EventBus]:
    """A fresh bus over each kind of store; it must not leave a task behind."""
    before = asyncio.all_tasks()
    made = EventBus(store)
    yield made
    await made.close(timeout=1.0)
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)
