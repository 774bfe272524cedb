"""A process that asks a person, or takes the decision, and is killed (-9) around the moment at which it is told.

    python -m tests.hitl.dying DATABASE_URL EVENTS_FILE EVENT_TYPE before|after

It dies before, or after, the event store commits the first event of that type.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.store.sqlite import SqliteStore
from agent_runtime.hitl.manager import HITLManager
from agent_runtime.sessions.database import Database
from tests.hitl.asking import Clock, ask


class DeadlyStore(SqliteStore):
    """Kills its process when it is given an event of one type."""

    event_type = ""
    moment = ""

    def append(self, events: Sequence[BaseEvent]) -> list[int]:
        """Commits, or dies."""
        dies = any(event.event_type == self.event_type for event in events)
        if dies and self.moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        positions = super().append(events)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return positions


async def live(url: str, events: str, event_type: str, moment: str) -> None:
    """Asks about two calls, decides about one, lets the other expire; as far as it gets."""
    store = DeadlyStore(events)
    store.event_type, store.moment = event_type, moment
    clock = Clock()
    manager = HITLManager(EventBus(store), Database(url), now=clock)
    await ask(manager)
    await manager.decide("call-1", "edit", modified_arguments={"path": "b.txt"}, decided_by="ann")
    await ask(manager, call_id="call-2")
    clock.pass_by(300)
    await manager.sweep()


if __name__ == "__main__":
    asyncio.run(live(*sys.argv[1:]))
