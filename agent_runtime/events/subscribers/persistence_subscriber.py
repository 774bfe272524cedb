"""Saves sessions and contexts by the events that change them."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventType
from agent_runtime.events.subscribers.folding import in_turn
from agent_runtime.events.subscribers.saving import BATCH, Save, WriteBehind, save_batches


class _Pending(NamedTuple):
    """When a write is due (the clock's seconds), and a number that changes with every event that asks for it."""

    due: float
    stamp: int


class PersistenceSubscriber(WriteBehind):
    """Writes behind: an event makes a write due ``debounce_seconds`` later; what follows until then is the same write.

    A write is delayed, never dropped: further events do not move it, and one that arrives while it is under way makes
    another. At most ``debounce_seconds + flush_seconds`` pass between a change and its write.

    Args:
        save_session: called with the id of a session that was updated or got a message.
        save_context: called with the id of a session that was passed to another agent.
        debounce_seconds: how long a write waits for more of the same.
        flush_seconds: how often it is looked for writes that are due.
        batch_size: how many are written at a time.
        clock: seconds, never decreasing.
    """

    name = "persistence_subscriber"
    priority = 1

    def __init__(
        self,
        save_session: Save | None = None,
        save_context: Save | None = None,
        *,
        debounce_seconds: float = 2.0,
        flush_seconds: float = 2.0,
        batch_size: int = BATCH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(flush_seconds)
        saves = {
            EventType.SESSION_UPDATED: save_session,
            EventType.MESSAGE_ADDED: save_session,
            EventType.AGENT_SWITCHED: save_context,
        }
        self._saves = {event_type: save for event_type, save in saves.items() if save is not None}
        self._debounce_seconds = debounce_seconds
        self._batch_size = batch_size
        self._clock = clock
        self._stamps = count()
        self._pending: dict[tuple[Save, str], _Pending] = {}

    def attach(self, bus: EventBus) -> Callable[[], None]:
        """Follow ``bus`` from now on; attaching twice counts once.

        Returns:
            A function without arguments that detaches it again.
        """
        detach = []
        for event_type in self._saves:
            bus.unsubscribe(self.handle, event_type=event_type)
            detach.append(
                bus.subscribe(event_type=event_type, handler=self.handle, priority=self.priority, name=self.name)
            )
        return in_turn(detach)

    def handle(self, event: BaseEvent) -> None:
        """Note one event; what is of no interest is passed over."""
        save = self._saves.get(event.event_type)  # type: ignore[call-overload]
        if save is None or event.session_id is None:
            return
        job = (save, event.session_id)
        known = self._pending.get(job)
        due = self._clock() + self._debounce_seconds if known is None else known.due
        self._pending[job] = _Pending(due, next(self._stamps))

    @property
    def pending(self) -> int:
        """See ``WriteBehind.pending``."""
        return len(self._pending)

    async def flush(self, everything: bool = False) -> int:
        """See ``WriteBehind.flush``."""
        now = self._clock()
        due = {job: noted for job, noted in self._pending.items() if everything or noted.due <= now}
        saved = await save_batches(list(due), self._batch_size)
        again = self._clock() + self._debounce_seconds
        for (job, noted), succeeded in zip(due.items(), saved, strict=True):
            if succeeded and self._pending.get(job) == noted:
                del self._pending[job]
            elif job in self._pending:
                # It failed, or more has happened since the write began.
                self._pending[job] = self._pending[job]._replace(due=again)
        return sum(saved)
