"""What handlers gave up on: kept beside the events, and tried once more on demand."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.delivery import Delivery
from agent_runtime.events.domain_events import DomainEvent, DomainRecord
from agent_runtime.events.errors import BusClosed
from agent_runtime.events.parsing import parse_event
from agent_runtime.events.routing import Routing
from agent_runtime.events.store.base import DeadLetter, EventStore
from agent_runtime.events.subscription import Subscription
from agent_runtime.events.writer import GroupCommitWriter

logger = logging.getLogger("agent_runtime.events")


class DeadLetters:
    """The dead letters of one bus's handlers."""

    def __init__(self, store: EventStore, writer: GroupCommitWriter) -> None:
        self._store = store
        self._writer = writer
        self._retrying: set[tuple[str, str]] = set()

    def add(self, consumer: str, event: Any, error: BaseException, attempts: int) -> None:
        """Keep that ``consumer`` gave up on ``event`` (an event or a domain event). It never raises."""
        try:
            record: BaseEvent = DomainRecord.of(event) if isinstance(event, DomainEvent) else event
            if (consumer, record.event_id) in self._retrying:
                return
            why = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
            letter = DeadLetter("handlers", consumer, record.event_id, record.to_json(), why, attempts, time.time_ns())
            self._keep(letter)
        except Exception:
            logger.critical("%s gave up on event %s, and no dead letter could be kept", consumer, event, exc_info=True)

    def _keep(self, letter: DeadLetter) -> None:
        if self._store.blocking:
            try:
                self._writer.submit_letter(letter)
                return
            except BusClosed:
                pass  # the last ones of a bus that is being closed: no loop has to be spared any more
        self._store.add_dead_letter(letter)

    async def retry(self, letter_id: int, routing: Routing, delivery: Delivery) -> bool:
        """Give a letter to its handler once more; see ``EventBus.retry_dead_letter``."""
        letter = await self._call(self._find, letter_id)
        if letter.queue != "handlers":
            raise LookupError(
                f"dead letter {letter_id} is of the queue {letter.queue}: only those of handlers are retried"
            )
        found = [subscription for subscription in routing.subscriptions if subscription.name == letter.consumer]
        if not found:
            raise LookupError(f"no subscriber is called {letter.consumer}")
        event = await self._call(self._store.get, letter.event_id) or parse_event(letter.payload)
        # Beside the queue, which the letter has left: so with figures of its own, that tell how it went.
        real = found[0]
        trial = Subscription(real.handler, real.name, real.scope, real.key, real.priority, real.order, real.timeout)
        key = (letter.consumer, letter.event_id)
        self._retrying.add(key)
        try:
            await delivery.handle(event, (trial,))
        finally:
            self._retrying.discard(key)
            real.handled += trial.handled
            real.failed += trial.failed
            real.seconds += trial.seconds
        if not trial.handled:
            return False
        await self._call(self._store.remove_dead_letter, letter_id)
        return True

    def _find(self, letter_id: int) -> DeadLetter:
        found = self._store.dead_letters(limit=1, after=letter_id - 1)
        if not found or found[0].letter_id != letter_id:
            raise LookupError(f"there is no dead letter {letter_id}")
        return found[0]

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments) if self._store.blocking else function(*arguments)
