"""What tests of people in the loop share: a clock that stands still, managers, and a question to ask."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.errors import StoreError
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.hitl.manager import HITLManager
from agent_runtime.hitl.models import Approval
from agent_runtime.sessions.database import Database

TURN = "0af7651916cd43dd8448eb211c80319c"
CAUSE = "01890000-0000-7000-8000-000000000001"
ARGUMENTS = {"path": "a.txt", "content": "one"}
NEVER = 3600.0


class Clock:
    """Tells the time that it was set to."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The time."""
        return self.moment

    def pass_by(self, seconds: float) -> None:
        """Sets it forward."""
        self.moment += timedelta(seconds=seconds)


class Managers:
    """Managers on one database, which is closed with the stack."""

    def __init__(self, url: str, clock: Clock, stack: AsyncExitStack) -> None:
        self._url = url
        self._clock = clock
        self._stack = stack

    def new(self, bus: EventBus, timeout_seconds: float = 300, poll_seconds: float = NEVER) -> HITLManager:
        """One more, as another process would have it; its loop does nothing by itself unless it is told to poll."""
        database = Database(self._url)
        self._stack.push_async_callback(database.close)
        return HITLManager(bus, database, timeout_seconds=timeout_seconds, poll_seconds=poll_seconds, now=self._clock)


async def ask(manager: HITLManager, **changes: Any) -> Approval:
    """The approval of a call of write_file, in a turn."""
    call: dict[str, Any] = {
        "session_id": "s-1",
        "call_id": "call-1",
        "tool_name": "write_file",
        "arguments": ARGUMENTS,
        "agent": "coder",
        "correlation_id": TURN,
        "causation_id": CAUSE,
    }
    return await manager.request(**{**call, **changes})


def stored(bus: EventBus) -> list[BaseEvent]:
    """Every event in the bus's store."""
    return bus.store.read(0, 100_000)


def kinds(bus: EventBus) -> list[str]:
    """The types of the events in the bus's store, in order."""
    return [str(event.event_type) for event in stored(bus)]


class MoodyStore(MemoryStore):
    """A store that takes nothing while it is ``down``."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False

    def append(self, events: Sequence[BaseEvent]) -> list[int]:
        """Takes the events, or refuses them."""
        if self.down:
            raise StoreError("the disk is full")
        return super().append(events)
