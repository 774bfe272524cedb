"""The newest committed events, in store order, for those who read with a cursor of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.store.base import EventStore


class Feed:
    """Serves readers near the end of the store from memory, and all others from the store.

    Args:
        store: where older events are read from.
        keep: how many of the newest events are held.
    """

    def __init__(self, store: EventStore, keep: int = 4_000) -> None:
        self._store = store
        self._keep = keep
        self._recent: list[BaseEvent] = []
        self._waiting: set[asyncio.Future[None]] = set()

    def extend(self, events: Sequence[BaseEvent]) -> None:
        """Take note of events just committed. Called by the bus, on its loop."""
        recent = self._recent
        recent.extend(events)
        if len(recent) > 2 * self._keep:
            del recent[: -self._keep]
        if self._waiting:
            self.wake()

    def wake(self) -> None:
        """Let every waiting reader look again."""
        for future in self._waiting:
            if not future.done():
                future.get_loop().call_soon_threadsafe(_resolve, future)
        self._waiting.clear()

    async def read(self, after: int, limit: int) -> list[BaseEvent]:
        """At most ``limit`` events behind position ``after``; from memory where they are held, else from the store, on a thread."""
        recent = self._recent
        if recent and recent[0].position <= after + 1:
            start = after + 1 - recent[0].position
            return recent[start : start + limit]
        if after >= self._store.last_position():
            return []
        if not self._store.blocking:
            return self._store.read(after, limit)
        return await asyncio.to_thread(self._store.read, after, limit)

    async def wait(self, after: int, timeout: float) -> None:
        """Return as soon as there is an event behind ``after``, or after ``timeout`` seconds."""
        if self._recent and self._recent[-1].position > after:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(future)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
