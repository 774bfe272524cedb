"""The current correlation id (one turn, one trace) and the current cause, carried by a context variable.

Every event takes both when it is built, unless they are given. While a handler runs, the event that it handles is the
cause of whatever the handler publishes.
"""

from __future__ import annotations

import os
import random
from contextvars import ContextVar
from typing import NamedTuple, Protocol


class Cause(Protocol):
    """What an event inherits from: the event that is being handled, or an ``EventContext``."""

    @property
    def correlation_id(self) -> str | None:
        """The turn that the new event belongs to."""

    @property
    def event_id(self) -> str | None:
        """The new event's cause."""


class EventContext(NamedTuple):
    """The two ids that an event inherits outside of a handler."""

    correlation_id: str | None = None
    event_id: str | None = None


NO_CONTEXT = EventContext()
current: ContextVar[Cause] = ContextVar("agent_runtime_event_context", default=NO_CONTEXT)

# Ids must be unique, not secret: a generator seeded by the system is four times faster than asking the system each
# time.
_random = random.Random(os.urandom(32))
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))
random_bits = _random.getrandbits


def new_correlation_id() -> str:
    """A fresh correlation id: 32 lower-case hex digits, never all zero, usable as a W3C trace id as it is."""
    return f"{random_bits(128) or 1:032x}"


class EventCorrelation:
    """Reads and sets the ids that events inherit in this task and in whatever it starts."""

    @staticmethod
    def set_correlation_id(correlation_id: str | None) -> None:
        """Make ``correlation_id`` the current one."""
        current.set(EventContext(correlation_id, current.get().event_id))

    @staticmethod
    def get_correlation_id() -> str | None:
        """The current correlation id, or None."""
        return current.get().correlation_id

    @staticmethod
    def create_correlation_id() -> str:
        """A fresh id (see ``new_correlation_id``); it does not become current by itself."""
        return new_correlation_id()

    @staticmethod
    def set_causation_id(causation_id: str | None) -> None:
        """Make ``causation_id``, an event's id, the current cause."""
        current.set(EventContext(current.get().correlation_id, causation_id))

    @staticmethod
    def get_causation_id() -> str | None:
        """The id of the event that is the current cause, or None."""
        return current.get().event_id
