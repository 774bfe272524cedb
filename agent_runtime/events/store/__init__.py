"""Where events are kept: one protocol, an implementation a file."""

from agent_runtime.events.store.base import DeadLetter, EventStore
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.store.sqlite import SqliteStore

__all__ = ["DeadLetter", "EventStore", "MemoryStore", "SqliteStore", "open_store"]


def open_store(url: str) -> EventStore:
    """The store that ``url`` names: ``memory://``, or ``sqlite:///relative.db``, ``sqlite:////absolute.db``.

    Raises:
        ValueError: no store is known under that scheme.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "memory":
        return MemoryStore()
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return SqliteStore(rest[1:])
    raise ValueError(f"no event store for {scheme}://: use memory:// or sqlite:///path")
