"""The bus: publishers and subscribers know only it.

An event is a fact once the store has committed it. Then, and only then, each subscriber gets it, once, in store order.
How it gets it is ``delivery``'s business, and how events get into a blocking store is ``writer``'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, overload

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import NO_CONTEXT, current
from agent_runtime.events.dead_letters import DeadLetters
from agent_runtime.events.delivery import Delivery, waiting
from agent_runtime.events.domain_events import DomainEvent, DomainRecord
from agent_runtime.events.errors import BusClosed, Overloaded
from agent_runtime.events.event_types import EventCategory
from agent_runtime.events.feed import Feed
from agent_runtime.events.inbox import Inbox
from agent_runtime.events.middleware import Middleware, MiddlewareChain
from agent_runtime.events.routing import Listens, Route, Routing, listens_to
from agent_runtime.events.store.base import EventStore
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.subscription import Handler, Subscription, check_handler, handler_name
from agent_runtime.events.worker import at_work, resolve
from agent_runtime.events.writer import GroupCommitWriter, Report, Submission

logger = logging.getLogger("agent_runtime.events")
# Cleared by logging whenever a level changes; looking into it is half the price of asking ``isEnabledFor``.
_debug_levels: dict[int, bool] = logger._cache  # type: ignore[attr-defined]

H = TypeVar("H", bound=Handler)

BUS_LIMIT = -1.0
STORE_PATIENCE_SECONDS = 30.0
GRACE_SECONDS = 0.1
OPEN, CLOSING, CLOSED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class BusStats:
    """A snapshot of what a bus has done. ``queue_depth`` counts what waits for the store and for subscribers."""

    total_published: int
    successful_handlers: int
    failed_handlers: int
    last_event_time: datetime | None
    cancelled: int
    queue_depth: int
    dead_letters: int
    middleware_errors: int


class EventBus:
    """Publish and subscribe over an event store.

    Args:
        store: where events are kept; a ``MemoryStore`` by default.
        sanitise: called with every event before it is stored, after the middleware; may change it.
        queue_size: how many events may wait for one subscriber before publishers are held back.
        writer_queue_size: how many events may wait for the store, or for the bus to be used under a loop.
        handler_timeout: seconds that a handler may take unless its subscription says otherwise; None for ever. A
            handler that never awaits can't be timed out, and must not block.
    """

    def __init__(
        self,
        store: EventStore | None = None,
        *,
        sanitise: Callable[[BaseEvent], None] | None = None,
        queue_size: int = 10_000,
        writer_queue_size: int = 50_000,
        handler_timeout: float | None = 60.0,
    ) -> None:
        self.store: EventStore = MemoryStore() if store is None else store
        self.feed = Feed(self.store)
        self.writer = GroupCommitWriter(self.store, self._report)
        self._memory = self.store if isinstance(self.store, MemoryStore) and not self.store.blocking else None
        self._routing = Routing()
        self._dead_letters = DeadLetters(self.store, self.writer)
        self._delivery = Delivery(lambda: self._routing.subscriptions, queue_size, self._give_up)
        self._middleware = MiddlewareChain(sanitise)
        self._inbox = Inbox(self.publish, writer_queue_size)
        self._reports: deque[Report] = deque()
        self._captures: tuple[list[Any], ...] = ()
        self._writer_queue_size = writer_queue_size
        self._handler_timeout = handler_timeout
        self._entering = 0
        self._state = OPEN
        self._published = 0
        self._last_time_us = 0

    # -- subscribing ---------------------------------------------------------------------------------------------------

    @property
    def subscriptions(self) -> Route:
        """The present subscriptions, in order of registration."""
        return self._routing.subscriptions

    @overload
    def subscribe(
        self,
        event_type: Listens = None,
        event_category: EventCategory | str | None = None,
        *,
        handler: Handler,
        priority: int = 0,
        timeout: float | None = ...,
        name: str | None = None,
    ) -> Callable[[], None]: ...

    @overload
    def subscribe(
        self,
        event_type: Listens = None,
        event_category: EventCategory | str | None = None,
        handler: None = None,
        priority: int = 0,
        timeout: float | None = ...,
        name: str | None = None,
    ) -> Callable[[H], H]: ...

    def subscribe(
        self,
        event_type: Listens = None,
        event_category: EventCategory | str | None = None,
        handler: Handler | None = None,
        priority: int = 0,
        timeout: float | None = BUS_LIMIT,
        name: str | None = None,
    ) -> Any:
        """Listen to a type, to a category, or (neither given) to everything; the type wins over the category.

        Args:
            event_type: an ``EventType``, its text in either spelling, an event class, or a domain event class.
            event_category: an ``EventCategory`` or its text.
            handler: called with the event; a plain or an async function, a bound method, a partial, any callable
                object.
            priority: higher first; ties: type, category, everything, then order of registration.
            timeout: seconds that the handler may take; the bus's own limit by default, None for ever.
            name: how statistics and dead letters call it; its qualified name by default.

        Returns:
            A function without arguments that ends the subscription; without ``handler``, a decorator.

        Raises:
            InvalidEvent: there is no such type. ValueError: there is no such category. TypeError: the handler can't be
            called.
        """
        scope, key = listens_to(event_type, event_category)
        limit = self._handler_timeout if timeout == BUS_LIMIT else timeout

        def register(function: Handler) -> Subscription:
            check_handler(function)
            subscription = self._routing.add(function, name or handler_name(function), scope, key, priority, limit)
            bind = getattr(function, "bind_dead_letters", None)
            if bind is not None:
                bind(partial(self.dead_letter, subscription.name))
            logger.debug("subscribed %s to %s, priority %d", subscription.name, key or "everything", priority)
            return subscription

        if handler is None:

            def decorate(function: H) -> H:
                register(function)
                return function

            return decorate
        subscription = register(handler)
        return lambda: self._drop((subscription,))

    def unsubscribe(
        self, handler: Handler, event_type: Listens = None, event_category: EventCategory | str | None = None
    ) -> bool:
        """Remove every registration of ``handler`` for that type, that category, or (neither given) for everything.

        Returns:
            Whether there was one.
        """
        found = self._routing.find(handler, *listens_to(event_type, event_category))
        self._drop(found)
        return bool(found)

    def _drop(self, subscriptions: Iterable[Subscription]) -> None:
        gone = self._routing.drop(subscriptions)
        for subscription in gone:
            logger.debug("unsubscribed %s from %s", subscription.name, subscription.key or "everything")
        if any(subscription.queue for subscription in gone):
            loop = self._delivery.loop
            if loop is None or loop.is_closed():
                self._delivery.purge(gone)
            else:
                loop.call_soon_threadsafe(self._delivery.purge, gone)

    # -- publishing ----------------------------------------------------------------------------------------------------

    async def publish(self, event: BaseEvent | DomainEvent, wait_for_handlers: bool = False) -> list[Any] | None:
        """Hand an event to the bus.

        Args:
            event: an infrastructure or a domain event.
            wait_for_handlers: return only when it is committed and its handlers have run, one after another by
                priority. A handler that takes longer than a second no longer holds up those behind it, nor does one
                that waits for an event of its own; the publisher waits for all of them.

        Returns:
            With ``wait_for_handlers``, the handlers' results in that order (None for one that failed); None if there
            were no handlers, or the event was cancelled or a duplicate, or without ``wait_for_handlers``.

        Raises:
            BusClosed: after ``close``. Overloaded: the store has taken nothing for half a minute. StoreError (only with
            ``wait_for_handlers``): it could not be stored. TypeError: it is no event.
        """
        delivery = self._delivery
        if delivery.loop is None or not delivery.loop.is_running():
            self._bind()
        record = self._admit(event)
        if self._middleware.active or delivery.full:
            entered = await self._enter(record)
            if entered is None:
                return None
            record = entered
        memory = self._memory
        if memory is None:
            return await self._publish_durably(record, wait_for_handlers)
        if not memory.append_one(record):
            return None
        self._published += 1
        self._last_time_us = record.time_us
        if self._captures:
            self._capture(record)
        if self.feed.followers:
            self.feed.wake()
        if _debug_levels.get(logging.DEBUG, True):
            _log(record)
        route = self._routing.known.get(record.event_type)
        if route is None:
            route = self._routing.route(record)
        if not wait_for_handlers:
            delivery.offer(record, route)
            return None
        results: list[Any] = []
        if not delivery.pending:
            await delivery.run(record, route, results)
        if len(results) == len(route):
            return results or None
        return await delivery.finish(record, route, results)

    async def publish_many(self, events: Sequence[BaseEvent | DomainEvent]) -> list[int]:
        """Publish a batch; it is committed together, and on return it is durable. Its handlers follow.

        Returns:
            For each event its position, 0 if it is a duplicate, -1 if a middleware cancelled it.

        Raises:
            Overloaded: too much is waiting already, nothing was taken. StoreError: nothing was committed. InvalidEvent,
            TypeError: one of them can't be stored, none was. BusClosed: after ``close``.
        """
        self._bind()
        records: list[BaseEvent | None] = [self._admit(event) for event in events]
        if self._middleware.active or self._delivery.full:
            records = [None if record is None else await self._enter(record) for record in records]
        taken = [record for record in records if record is not None]
        stored = iter(await self._store_many(taken) if taken else ())
        return [-1 if record is None else next(stored) for record in records]

    def publish_threadsafe(self, event: BaseEvent | DomainEvent) -> Future[None]:
        """Publish from any thread, on the loop that the bus runs under, in the order of the calls.

        Before the bus has been used under a loop the event waits, and is published as soon as it is.

        Returns:
            A future that resolves to None once the bus has the event.

        Raises:
            BusClosed: after ``close``. Overloaded: too many events wait already. TypeError: it is no event.
        """
        return self._inbox.put(self._admit(event), self._delivery.loop)

    # -- on the way to the store ---------------------------------------------------------------------------------------

    def _admit(self, event: BaseEvent | DomainEvent) -> BaseEvent:
        """``event`` as it is stored, with the ids of the context if it has none of its own."""
        if self._state != OPEN:
            self._admit_late()
        if isinstance(event, BaseEvent):
            context = current.get()
            if context is not NO_CONTEXT:
                if event.correlation_id is None:
                    event.correlation_id = context.correlation_id
                if event.causation_id is None and context.event_id != event.event_id:
                    event.causation_id = context.event_id
            return event
        if isinstance(event, DomainEvent):
            return DomainRecord.of(event)
        raise TypeError(f"only events can be published, got {type(event).__name__}")

    def _admit_late(self) -> None:
        """While the bus is being closed, what was accepted may still lead to other events."""
        attempt = at_work.get()
        follows = attempt is not None and not attempt.over
        if self._state == CLOSED or not (follows or asyncio.current_task() is self._inbox.task):
            raise BusClosed("the event bus is closed")

    async def _enter(self, record: BaseEvent) -> BaseEvent | None:
        """Through the middleware, and held back while a subscription is behind."""
        self._entering += 1
        try:
            entered = await self._middleware.apply(record) if self._middleware.active else record
            if self._delivery.full:
                await self._delivery.room()
        finally:
            self._entering -= 1
        if self._state == CLOSED:
            raise BusClosed("the event bus was closed meanwhile")
        return entered

    async def _publish_durably(self, record: BaseEvent, wait: bool) -> list[Any] | None:
        if self.writer.waiting >= self._writer_queue_size:
            await self._wait_for_store()
        finished: asyncio.Future[list[Any] | None] | None = None
        if wait:
            finished = asyncio.get_running_loop().create_future()
        self.writer.submit(Submission((record,), finished, waited=wait))
        self._capture(record)
        if finished is None:
            return None
        with waiting():
            return await finished

    async def _wait_for_store(self) -> None:
        deadline = time.monotonic() + STORE_PATIENCE_SECONDS
        self._entering += 1
        try:
            while self.writer.waiting >= self._writer_queue_size:
                if time.monotonic() > deadline:
                    raise Overloaded(self.writer.waiting)
                await asyncio.sleep(0.005)
        finally:
            self._entering -= 1

    async def _store_many(self, records: list[BaseEvent]) -> list[int]:
        if self._memory is not None:
            positions = self._memory.append(records)
            for record, position in zip(records, positions, strict=True):
                if position:
                    self._capture(record)
            self._spread(records, positions, None)
            return positions
        already = self.writer.waiting
        if already and already + len(records) > self._writer_queue_size:
            raise Overloaded(already)
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self.writer.submit(Submission(records, done))
        for record in records:
            self._capture(record)
        with waiting():
            return await done

    def _capture(self, record: BaseEvent) -> None:
        for captured in self._captures:
            captured.append(record.domain if isinstance(record, DomainRecord) else record)

    # -- on the way from the store -------------------------------------------------------------------------------------

    def _report(self, reports: list[Report]) -> None:
        """What the writer says; on its thread."""
        self._reports.extend(reports)
        loop = self._delivery.loop
        if loop is not None:
            # Without a loop, or with one that is closed by now, the reports wait for the next.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._take_reports, context=Context())

    def _take_reports(self) -> None:
        arrived = 0
        while self._reports:
            submission, outcome = self._reports.popleft()
            arrived += len(submission.events)
            done: Any = submission.done
            if isinstance(outcome, Exception):
                if done is not None and not done.done() and not done.get_loop().is_closed():
                    done.set_exception(outcome)
                continue
            self._spread(submission.events, outcome, done if submission.waited else None)
            if done is not None and not submission.waited:
                resolve(done, outcome)
        self.writer.forget(arrived)
        self._delivery.pump()

    def _spread(
        self, records: Sequence[BaseEvent], positions: list[int], finished: asyncio.Future[list[Any] | None] | None
    ) -> None:
        fresh = records if 0 not in positions else [r for r, p in zip(records, positions, strict=True) if p]
        if fresh:
            self.feed.extend(fresh)
        elif finished is not None:
            resolve(finished)
        for record in fresh:
            self._published += 1
            self._last_time_us = record.time_us
            _log(record)
            self._delivery.offer(record, self._routing.route(record), finished)

    def _bind(self) -> None:
        """Go on under the running loop, also with what was left by a former one."""
        before = self._delivery.loop
        if self._delivery.bind() is not before:
            self._inbox.open()
            self._take_reports()

    # -- dead letters --------------------------------------------------------------------------------------------------

    def dead_letter(self, consumer: str, event: Any, error: BaseException, attempts: int) -> None:
        """Keep, beside the events, that ``consumer`` gave up on ``event``, which may be a domain event."""
        self._dead_letters.add(consumer, event, error, attempts)

    def _give_up(self, subscription: Subscription, event: BaseEvent, error: BaseException) -> None:
        self._dead_letters.add(subscription.name, event, error, 0)

    async def retry_dead_letter(self, letter_id: int) -> bool:
        """Give a handler's dead letter to it once more; it is removed if the handler succeeds.

        Returns:
            Whether it succeeded.

        Raises:
            LookupError: there is no such letter, or nobody of that name is subscribed.
        """
        self._bind()
        return await self._dead_letters.retry(letter_id, self._routing, self._delivery)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def add_middleware(self, middleware: Middleware) -> None:
        """Call the async function ``middleware`` with every event before it is stored, in order of registration.

        It returns the event (changed, or another one), or None to cancel it. One that raises is passed over.
        """
        self._middleware.add(middleware)

    @contextmanager
    def capture_events(self) -> Iterator[list[Any]]:
        """A list that the events published inside the ``with`` block are added to, in publish order."""
        captured: list[Any] = []
        self._captures = (*self._captures, captured)
        try:
            yield captured
        finally:
            # By identity: two captures of the same events are equal lists.
            self._captures = tuple(other for other in self._captures if other is not captured)

    def get_stats(self) -> BusStats:
        """What the bus has done so far."""
        handled, failed = self._routing.outcomes()
        moment = self._last_time_us
        waiting_for_handlers = len(self._delivery.pending) + sum(len(s.queue) for s in self._routing.subscriptions)
        return BusStats(
            total_published=self._published,
            successful_handlers=handled,
            failed_handlers=failed,
            last_event_time=datetime.fromtimestamp(moment // 1_000_000, UTC).replace(microsecond=moment % 1_000_000)
            if moment
            else None,
            cancelled=self._middleware.cancelled,
            queue_depth=len(self._inbox) + self.writer.waiting + waiting_for_handlers,
            dead_letters=sum(self.store.count_dead_letters().values()),
            middleware_errors=self._middleware.errors,
        )

    async def drain(self, timeout: float = 30.0) -> bool:
        """Wait until everything published so far is stored and handled; False if ``timeout`` seconds are too few."""
        self._bind()
        deadline = time.monotonic() + timeout
        while self._entering or self._inbox or self._inbox.task or self.writer.waiting or not self._delivery.idle:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0 if self._delivery.pending else 0.001)
        return True

    async def clear(self) -> None:
        """Drop all subscriptions and all middleware; what is queued for them is not delivered."""
        gone = self._routing.drop(self._routing.subscriptions)
        self._middleware.clear()
        self._bind()
        self._delivery.purge(gone)

    async def close(self, timeout: float = 5.0) -> bool:
        """Take no more events, drain, and end the writer. What handlers have not finished by then is dead-lettered.

        The store stays open: it belongs to who opened it.

        Returns:
            Whether everything was stored and handled within ``timeout`` seconds.
        """
        if self._state == CLOSED:
            return True
        self._state = CLOSING
        deadline = time.monotonic() + timeout
        drained = await self.drain(timeout)
        self._state = CLOSED
        self._inbox.refuse()
        await self._delivery.end(GRACE_SECONDS)
        stopped = await asyncio.to_thread(self.writer.stop, max(GRACE_SECONDS, deadline - time.monotonic()))
        # What was committed at the very last.
        self._take_reports()
        await self._delivery.end(GRACE_SECONDS)
        return drained and stopped


def _log(record: BaseEvent) -> None:
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("published %s %s at position %d", record.event_type, record.event_id, record.position)


event_bus = EventBus()
