"""What POST /events answers when nothing can be stored: never an acknowledgement, always when to come back."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_runtime.api.ingest import Ingest
from agent_runtime.events import BaseEvent, EventBus
from agent_runtime.events.store import SqliteStore
from telemetry.pipeline_metrics import DoorFigures
from tests.api.examples import switched


async def post(bus: EventBus, events: Any) -> httpx.Response:
    """Send events to an endpoint over this bus."""
    ingest = Ingest(bus, DoorFigures(), max_body_bytes=1_000_000, max_events=1_000)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(ingest), base_url="http://door") as client:
        return await client.post("/events", json=events)


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    """An empty store."""
    return SqliteStore(tmp_path / "events.db")


class SlowStore(SqliteStore):
    """A store on a disk that does not answer until `answers` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.answers = threading.Event()

    def append(self, events: Sequence[BaseEvent]) -> list[int]:
        """See `EventStore.append`."""
        self.answers.wait()
        return super().append(events)


async def test_overloaded(tmp_path: Path) -> None:
    """While as many events wait as may, more are turned away whole, with a Retry-After; those that wait are stored."""
    store = SlowStore(tmp_path / "events.db")
    bus = EventBus(store, writer_queue_size=2)
    first = asyncio.create_task(post(bus, [switched()]))
    while not bus.writer.waiting:
        await asyncio.sleep(0.001)
    response = await post(bus, [switched(), switched()])
    assert (503, "1") == (response.status_code, response.headers["retry-after"])
    store.answers.set()
    assert (1, 1) == ((await first).json()["accepted"], store.last_position())
    await bus.close()
    store.close()


async def test_a_store_that_fails(store: SqliteStore) -> None:
    """A commit that fails is a 503; whoever sent the events still has them."""
    bus = EventBus(store)
    store.close()
    response = await post(bus, [switched()])
    assert (503, "1") == (response.status_code, response.headers["retry-after"])
    assert {"error": "the event store could not commit; nothing was stored"} == response.json()
    await bus.close()


async def test_a_bus_that_is_closed(store: SqliteStore) -> None:
    """During a shutdown it is a 503: another instance may take them."""
    bus = EventBus(store)
    await bus.close()
    response = await post(bus, [switched()])
    assert (503, "1", 0) == (response.status_code, response.headers["retry-after"], store.last_position())
    store.close()


async def test_what_a_middleware_cancels(store: SqliteStore) -> None:
    """An event that a middleware of the bus cancels is named among the rejected ones."""
    bus = EventBus(store)

    async def no_robots(event: Any) -> Any:
        return None if event.data["to_agent"] == "robot" else event

    bus.add_middleware(no_robots)
    robot = {"from_agent": "a", "to_agent": "robot"}
    response = await post(bus, [switched(), switched(data=robot), {}, switched()])
    assert {
        "accepted": 2,
        "duplicates": 0,
        "rejected": [
            {"index": 1, "error": "was cancelled by a middleware of the bus"},
            {"index": 2, "error": "event_type: is required and must be a string"},
        ],
    } == response.json()
    await bus.close()
    store.close()


async def test_a_mistake_of_ours(store: SqliteStore) -> None:
    """Whatever else goes wrong is a 500 without details."""
    bus = EventBus(store, sanitise=lambda event: 1 / 0)  # type: ignore[arg-type, return-value]
    response = await post(bus, [switched()])
    assert (500, {"error": "internal error"}) == (response.status_code, response.json())
    await bus.close()
    store.close()
