"""Events in memory: for tests and for embedding where nothing must outlive the process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.store.base import DeadLetter


class MemoryStore:
    """The newest ``capacity`` events, and as many dead letters. A duplicate is known as long as its first copy is
    held."""

    blocking = False

    def __init__(self, capacity: int = 100_000) -> None:
        self._capacity = capacity
        self._events: list[BaseEvent] = []
        self._by_id: dict[str, BaseEvent] = {}
        self._position = 0
        self._recorded_ns = 0
        self._checkpoints: dict[str, tuple[int, bytes]] = {}
        self._letters: dict[int, DeadLetter] = {}
        self._letter_id = 0
        self._lock = Lock()

    def append(self, events: Sequence[BaseEvent]) -> list[int]:
        """See ``EventStore.append``."""
        return [self.append_one(event) for event in events]

    def append_one(self, event: BaseEvent) -> int:
        """Keep one event; its position, or 0 for a duplicate."""
        lock = self._lock
        lock.acquire()  # a ``with`` costs as much as all the rest
        try:
            by_id = self._by_id
            event_id = event.event_id
            if event_id in by_id:
                return 0
            now = time.time_ns()
            if now > self._recorded_ns:
                self._recorded_ns = now
            else:
                now = self._recorded_ns
            event.recorded_ns = now
            event.position = position = self._position + 1
            by_id[event_id] = event
            self._events.append(event)
            self._position = position
            if len(by_id) > self._capacity:
                self._forget_oldest()
            return position
        finally:
            lock.release()

    def _forget_oldest(self) -> None:
        # An eighth at a time, so that the cost of shifting the list is spread; a new list, as readers hold the old one.
        count = max(1, self._capacity // 8)
        for event in self._events[:count]:
            del self._by_id[event.event_id]
        self._events = self._events[count:]

    def read(self, after: int, limit: int) -> list[BaseEvent]:
        """See ``EventStore.read``; events that are no longer kept are passed over."""
        events = self._events
        if not events:
            return []
        start = max(0, after + 1 - events[0].position)
        return events[start : start + limit]

    def query(
        self,
        *,
        session_id: str | None = None,
        correlation_id: str | None = None,
        event_types: Sequence[str] | None = None,
        after: int = 0,
        limit: int = 100,
        newest: bool = False,
    ) -> list[BaseEvent]:
        """See ``EventStore.query``."""
        types = None if event_types is None else frozenset(event_types)
        events = self.read(after, self._capacity + 1)
        found: list[BaseEvent] = []
        for event in reversed(events) if newest else events:
            if len(found) == limit:
                break
            if (
                (session_id is None or event.session_id == session_id)
                and (correlation_id is None or event.correlation_id == correlation_id)
                and (types is None or event.event_type in types)
            ):
                found.append(event)
        return found[::-1] if newest else found

    def get(self, event_id: str) -> BaseEvent | None:
        """See ``EventStore.get``."""
        return self._by_id.get(event_id)

    def last_position(self) -> int:
        """See ``EventStore.last_position``."""
        return self._position

    def watermark(self) -> tuple[int, int]:
        """See ``EventStore.watermark``."""
        with self._lock:
            now = max(time.time_ns(), self._recorded_ns)
            self._recorded_ns = now + 1
            return self._position, now

    def size_bytes(self) -> int:
        """See ``EventStore.size_bytes``."""
        return 0

    def save_checkpoint(self, name: str, position: int, state: bytes) -> None:
        """See ``EventStore.save_checkpoint``."""
        self._checkpoints[name] = (position, state)

    def load_checkpoint(self, name: str) -> tuple[int, bytes] | None:
        """See ``EventStore.load_checkpoint``."""
        return self._checkpoints.get(name)

    def add_dead_letter(self, letter: DeadLetter) -> int:
        """See ``EventStore.add_dead_letter``."""
        return self.add_dead_letters((letter,))[0]

    def add_dead_letters(self, letters: Sequence[DeadLetter]) -> list[int]:
        """See ``EventStore.add_dead_letters``; the oldest give way when there are too many."""
        added = []
        with self._lock:
            for letter in letters:
                self._letter_id += 1
                self._letters[self._letter_id] = replace(letter, letter_id=self._letter_id)
                added.append(self._letter_id)
                if len(self._letters) > self._capacity:
                    del self._letters[next(iter(self._letters))]
        return added

    def dead_letters(self, limit: int = 100, after: int = 0) -> list[DeadLetter]:
        """See ``EventStore.dead_letters``."""
        with self._lock:
            letters = list(self._letters.values())
        return [letter for letter in letters if letter.letter_id > after][:limit]

    def count_dead_letters(self) -> dict[str, int]:
        """See ``EventStore.count_dead_letters``."""
        counts: dict[str, int] = {}
        with self._lock:
            for letter in self._letters.values():
                counts[letter.queue] = counts.get(letter.queue, 0) + 1
        return counts

    def remove_dead_letter(self, letter_id: int) -> bool:
        """See ``EventStore.remove_dead_letter``."""
        with self._lock:
            return self._letters.pop(letter_id, None) is not None

    def close(self) -> None:
        """Nothing is held."""
