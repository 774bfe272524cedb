"""The newest committed events, in store order, for those who read with a cursor of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.store.base import EventStore
from agent_runtime.events.worker import resolve

# The events that are held may have this much data, and until the next trim twice as much.
KEEP_BYTES = 32 * 1024 * 1024


class Feed:
    """Serves readers near the end of the store from memory, and all others from the store.

    Args:
        store: where older events are read from.
        keep: how many of the newest events are held, at least, unless they are large; none where the store itself is in
            memory.

    Attributes:
        followers: those who wait for the next event.
    """

    def __init__(self, store: EventStore, keep: int = 4_000) -> None:
        self.followers: set[asyncio.Future[None]] = set()
        self._store = store
        self._keep = keep if store.blocking else 0
        self._recent: list[BaseEvent] = []
        self._bytes = 0

    def extend(self, events: Sequence[BaseEvent]) -> None:
        """Take note of events just committed, in store order. Called by the bus, on its loop."""
        if self._keep:
            self._hold(events)
        if self.followers:
            self.wake()

    def _hold(self, events: Sequence[BaseEvent]) -> None:
        first, last = events[0].position, events[-1].position
        if self._recent and self._recent[-1].position + 1 != first:
            # Somebody else stores events, too: those in between are not here.
            self._recent, self._bytes = [], 0
        if last - first + 1 == len(events):
            self._recent.extend(events)
            self._bytes += sum([event.size for event in events])
        else:
            self._recent, self._bytes = [], 0
        if len(self._recent) > 2 * self._keep or self._bytes > 2 * KEEP_BYTES:
            self._trim()

    def _trim(self) -> None:
        """Keep the newest events, as many as there is room for, and always the last."""
        recent = self._recent[-self._keep :]
        first = len(recent) - 1
        held = recent[first].size
        while first and held + recent[first - 1].size <= KEEP_BYTES:
            first -= 1
            held += recent[first].size
        self._recent, self._bytes = recent[first:], held

    def wake(self) -> None:
        """Let every waiting reader look again. Called on the bus's loop."""
        followers, self.followers = self.followers, set()
        running = asyncio.get_running_loop()
        for future in followers:
            loop = future.get_loop()
            if loop is running:
                resolve(future)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(resolve, future)

    async def read(self, after: int, limit: int) -> list[BaseEvent]:
        """At most ``limit`` events behind position ``after``; from memory where they are held, else from the store, on
        a thread."""
        if not self._store.blocking:
            return self._store.read(after, limit)
        found = self._held(after, limit)
        if found or after >= self._store.last_position():
            return found
        # What was committed a moment ago is on its way here. Giving the loop a turn lets it arrive.
        await asyncio.sleep(0)
        return self._held(after, limit) or await asyncio.to_thread(self._store.read, after, limit)

    def _held(self, after: int, limit: int) -> list[BaseEvent]:
        recent = self._recent
        if not recent or after + 1 < recent[0].position:
            return []
        start = after + 1 - recent[0].position
        return recent[start : start + limit]

    async def wait(self, after: int, timeout: float) -> None:
        """Return as soon as there is an event behind ``after``, or after ``timeout`` seconds."""
        newest = self._recent[-1].position if self._recent else 0
        if not self._store.blocking:
            newest = self._store.last_position()
        if newest > after:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self.followers.add(future)
        timer = loop.call_later(timeout, resolve, future)
        try:
            await future
        finally:
            timer.cancel()
            self.followers.discard(future)
