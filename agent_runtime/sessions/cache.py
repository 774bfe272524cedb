"""What is held in memory between the database and its users: the most recently used, and all that is not saved yet."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar
from weakref import WeakValueDictionary


class Cached(Protocol):
    """What can be held."""

    @property
    def dirty(self) -> bool:
        """Whether there is something that the database has yet to get; it is not dropped then."""


T = TypeVar("T", bound=Cached)


class Locks:
    """A lock for each session id; it lives while someone holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._locks)

    def __call__(self, key: str) -> asyncio.Lock:
        """The lock of ``key``."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock


class Cache(Generic[T]):
    """Entries by session id.

    Args:
        size: how many entries are kept that could be read again.

    Attributes:
        lock: under ``lock(key)`` the entry is read from and written to the database.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[str, T] = OrderedDict()
        self.lock = Locks()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> T | None:
        """The entry, as the most recently used."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: str, entry: T) -> None:
        """Hold ``entry``; whatever was used least, and is saved, makes room."""
        self._entries[key] = entry
        self._entries.move_to_end(key)
        surplus = len(self._entries) - self._size
        if surplus > 0:
            clean = (name for name, held in self._entries.items() if not held.dirty and held is not entry)
            for name in [name for name, _ in zip(clean, range(surplus), strict=False)]:
                del self._entries[name]

    def drop(self, key: str, entry: T) -> None:
        """Hold ``entry`` no longer, if it is the one that is held and everything of it is saved."""
        if self._entries.get(key) is entry and not entry.dirty:
            del self._entries[key]

    def forget(self, key: str) -> None:
        """Hold nothing of ``key``, saved or not."""
        self._entries.pop(key, None)

    def dirty(self) -> list[str]:
        """The ids of what is not saved yet."""
        return [key for key, entry in self._entries.items() if entry.dirty]
