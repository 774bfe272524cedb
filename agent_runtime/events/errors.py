"""Every exception of floor 1.

EventsError
├── InvalidEvent (also ValueError)   an event that can't be built, parsed or stored as it is
├── BusClosed                        publishing on a bus after close()
├── Overloaded                       the writer's queue is full: try again later
└── StoreError                       the store could not commit or read
"""

from __future__ import annotations


class EventsError(Exception):
    """Base of all errors that events, bus and store raise."""


class InvalidEvent(EventsError, ValueError):
    """What was wrong and where.

    Args:
        where: path of the offending value, such as ``data.duration_ms``; empty for the event as a whole.
        what: what was expected and what was found.
    """

    def __init__(self, where: str, what: str) -> None:
        self.where = where
        self.what = what
        super().__init__(f"{where}: {what}" if where else what)


class BusClosed(EventsError):
    """The bus was closed and takes no more events."""


class Overloaded(EventsError):
    """More events wait to be committed than the bus may hold. ``retry_after`` is in seconds."""

    def __init__(self, waiting: int, retry_after: int = 1) -> None:
        self.retry_after = retry_after
        super().__init__(f"{waiting} events are waiting to be committed; try again in {retry_after} s")


class StoreError(EventsError):
    """The store failed to commit or to read; the cause is chained."""
