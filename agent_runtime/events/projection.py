"""Folds with a durable place: how everything that is computed from the store keeps up with it and survives a crash."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus

logger = logging.getLogger("agent_runtime.events")

CHUNK = 500
TICK_SECONDS = 0.5


class Projection(Protocol):
    """A fold of events. It is a pure function of what it is given: the same events and settling times, the same state.

    Attributes:
        name: under which its checkpoint is kept.
        version: of its definition; a checkpoint of another version is not loaded, and everything is folded again.
    """

    name: str
    version: str

    def apply(self, events: Sequence[BaseEvent]) -> None:
        """Fold events, in store order, each once."""

    def settle(self, now_ns: int) -> None:
        """Every event recorded before ``now_ns`` has been applied; what waited for that may be settled."""

    def dump(self) -> bytes:
        """The whole state."""

    def load(self, state: bytes) -> None:
        """Take over a state that ``dump`` gave."""


class ProjectionRunner:
    """Keeps one projection up with the bus, from a cursor of its own.

    Args:
        bus: whose feed and store are read.
        projection: what is kept up; in its initial state.
        checkpoint_seconds: how often its state is made durable, in seconds; also what a restart has to fold again, at
            most.

    Attributes:
        position: of the last event folded. recorded_ns: when that was stored.
        failures: how many chunks of events the projection broke on, which it never should, and which were passed over.
    """

    def __init__(self, bus: EventBus, projection: Projection, checkpoint_seconds: float = 5.0) -> None:
        self.projection = projection
        self.position = 0
        self.recorded_ns = 0
        self.failures = 0
        self._bus = bus
        self._checkpoint_seconds = checkpoint_seconds
        self._saved_at = 0.0
        self._saved_position = 0
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def restore(self) -> None:
        """Load the checkpoint, if there is one of this version and of this store."""
        name, version = self.projection.name, self.projection.version.encode()
        kept = self._bus.store.load_checkpoint(name)
        if kept is None:
            return
        position, state = kept
        kept_version, _, body = state.partition(b"\n")
        if kept_version != version:
            logger.info("projection %s changed its definition: folding all events again", name)
            return
        if position > self._bus.store.last_position():
            logger.warning("projection %s is ahead of its store: folding all events again", name)
            return
        self.projection.load(body)
        self.position = self._saved_position = position

    async def start(self) -> None:
        """Restore, catch up with the store, and follow it from then on."""
        await asyncio.to_thread(self.restore)
        self._stopping = False
        self._saved_at = time.monotonic()
        while await self.step():
            # A long way may be interrupted: what was folded so far need not be folded again.
            await self._checkpoint_if_due()
        self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"projection {self.projection.name}")

    async def step(self) -> bool:
        """Fold the next chunk; False if there was none, in which case what is due was settled."""
        events = await self._bus.feed.read(self.position, CHUNK)
        if not events:
            position, now_ns = self._bus.store.watermark()
            if position > self.position:
                # Committed just now: it can be read in a moment.
                await asyncio.sleep(0)
                return True
            self.projection.settle(now_ns)
            return False
        try:
            self.projection.apply(events)
        except Exception:
            # Some of the chunk may be in the state already. To fold it again would count that twice.
            self.failures += 1
            logger.exception("projection %s broke behind position %d; passed over", self.projection.name, self.position)
        self.position = events[-1].position
        self.recorded_ns = events[-1].recorded_ns
        await asyncio.sleep(0)
        return True

    async def _follow(self) -> None:
        while not self._stopping:
            try:
                if not await self.step():
                    await self._bus.feed.wait(self.position, TICK_SECONDS)
                await self._checkpoint_if_due()
            except Exception:
                # It observes; it must neither die nor take the process with it. The cursor has not moved: try again.
                logger.exception("projection %s failed behind position %d", self.projection.name, self.position)
                await asyncio.sleep(1.0)

    async def _checkpoint_if_due(self) -> None:
        if time.monotonic() - self._saved_at > self._checkpoint_seconds:
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Make the present state durable."""
        self._saved_at = time.monotonic()
        if self.position == self._saved_position:
            return
        position = self.position
        state = self.projection.version.encode() + b"\n" + self.projection.dump()
        await asyncio.to_thread(self._bus.store.save_checkpoint, self.projection.name, position, state)
        self._saved_position = position

    @property
    def lag_events(self) -> int:
        """How many committed events it has yet to fold."""
        return max(0, self._bus.store.last_position() - self.position)

    async def stop(self) -> None:
        """Fold what is committed, make the state durable, and stop following."""
        self._stopping = True
        if self._task is not None:
            self._bus.feed.wake()
            await self._task
            self._task = None
            while await self.step():
                pass
            await self.checkpoint()
