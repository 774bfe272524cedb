"""Where events are kept: one protocol, an implementation a file."""

from agent_runtime.events.store.base import DeadLetter, EventStore
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.store.sqlite import SqliteStore

__all__ = ["DeadLetter", "EventStore", "MemoryStore", "SqliteStore", "open_store"]


def open_store(url: str, synchronous: str = "FULL") -> EventStore:
    """The store that ``url`` names: ``memory://``, or ``sqlite:///relative.db``, ``sqlite:////absolute.db``.

    Args:
        synchronous: SQLite's setting of that name, see ``SqliteStore``.

    Raises:
        ValueError: no store is known under that scheme. StoreError: it can't be opened.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "memory":
        return MemoryStore()
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return SqliteStore(rest[1:], synchronous)
    raise ValueError(f"no event store for {scheme}://: use memory:// or sqlite:///path")
