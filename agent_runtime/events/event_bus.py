"""The bus: publishers and subscribers know only it.

An event is a fact once the store has committed it. Then, and only then, each subscriber gets it, once, in store order, from a queue of
its own: who is slow lags alone. A subscriber that is idle is run in place, without a task or a queue in between.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import perf_counter_ns
from typing import Any, TypeVar, overload

from agent_runtime.events.base_event import BaseEvent, as_event_type
from agent_runtime.events.correlation import EventContext, current
from agent_runtime.events.domain_events import DOMAIN_EVENTS, DomainEvent, DomainRecord
from agent_runtime.events.errors import BusClosed, InvalidEvent, Overloaded
from agent_runtime.events.event_types import EventCategory, EventType
from agent_runtime.events.feed import Feed
from agent_runtime.events.parsing import parse_event
from agent_runtime.events.store.base import DeadLetter, EventStore
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.subscription import Handler, Subscription, Suspended, handler_name
from agent_runtime.events.writer import GroupCommitWriter, Submission

logger = logging.getLogger("agent_runtime.events")

H = TypeVar("H", bound=Handler)
Middleware = Callable[[Any], Awaitable[Any]]
Listens = EventType | str | type[BaseEvent] | type[DomainEvent] | None

BY_TYPE, BY_CATEGORY, BY_ALL = 0, 1, 2
STALL_SECONDS = 1.0


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


class _InTurn:
    """One event that all handlers of a route handle one after another, though each takes it from its own queue."""

    __slots__ = ("event", "_route", "_results", "_turn", "_waiting", "_finished")

    def __init__(
        self, event: BaseEvent, route: tuple[Subscription, ...], finished: asyncio.Future[list[Any] | None]
    ) -> None:
        self.event = event
        self._route = route
        self._results: list[Any] = []
        self._turn = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._finished = finished

    async def my_turn(self, subscription: Subscription) -> None:
        index = self._route.index(subscription)
        if index > self._turn:
            future = self._waiting[index] = asyncio.get_running_loop().create_future()
            await future

    def done(self, result: Any) -> None:
        self._results.append(result)
        self._turn += 1
        waiting = self._waiting.pop(self._turn, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        if self._turn == len(self._route) and not self._finished.done():
            self._finished.set_result(self._results)


class EventBus:
    """Publish and subscribe over an event store.

    Args:
        store: where events are kept; a ``MemoryStore`` by default.
        sanitise: called with every event before it is stored, after the middleware; may change it.
        queue_size: how many events may wait for one subscriber before publishers are held back.
        writer_queue_size: how many events may wait for the store.
        handler_timeout: seconds that a handler may take unless its subscription says otherwise; None for ever.
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
        self._memory = self.store if isinstance(self.store, MemoryStore) else None
        self.writer = GroupCommitWriter(self.store, self._committed)
        self._sanitise = sanitise
        self._queue_size = queue_size
        self._writer_queue_size = writer_queue_size
        self._handler_timeout = handler_timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._inbox: list[tuple[BaseEvent | DomainEvent, Any]] = []
        self._lock = threading.RLock()
        self._subscriptions: list[Subscription] = []
        self._routes: dict[str, tuple[Subscription, ...]] = {}
        self._order = 0
        self._middleware: list[Middleware] = []
        self._captures: list[list[Any]] = []
        self._crowded: set[Subscription] = set()
        self._retrying: set[tuple[str, str]] = set()
        self._closed = False
        self._published = 0
        self._cancelled = 0
        self._middleware_errors = 0
        self._last_time_us = 0
        self._former = [0, 0]

    # -- subscribing ---------------------------------------------------------------------------------------------------

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
        timeout: float | None = -1.0,
        name: str | None = None,
    ) -> Any:
        """Listen to a type, to a category, or (neither given) to everything; the type wins over the category.

        Args:
            event_type: an ``EventType``, its text in either spelling, an event class, or a domain event class.
            event_category: an ``EventCategory`` or its text.
            handler: called with the event; a plain or an async function, a bound method, a partial, any callable object.
            priority: higher first; ties: type, category, everything, then order of registration.
            timeout: seconds that the handler may take; the bus's own limit by default, None for ever.
            name: how statistics and dead letters call it; its qualified name by default.

        Returns:
            A function without arguments that ends the subscription; without ``handler``, a decorator.

        Raises:
            InvalidEvent: there is no such type. ValueError: there is no such category. TypeError: the handler can't be called.
        """
        scope, key = _listens_to(event_type, event_category)
        if handler is None:

            def decorate(function: Handler) -> Handler:
                self.subscribe(
                    event_type, event_category, handler=function, priority=priority, timeout=timeout, name=name
                )
                return function

            return decorate
        if not callable(handler):
            raise TypeError(f"a handler must be callable, got {type(handler).__name__}")
        limit = self._handler_timeout if timeout == -1.0 else timeout
        with self._lock:
            self._order += 1
            subscription = Subscription(
                handler, name or handler_name(handler), scope, key, priority, self._order, limit
            )
            self._subscriptions = [*self._subscriptions, subscription]
            self._routes = {}
        bind = getattr(handler, "bind_dead_letters", None)
        if bind is not None:
            bind(partial(self.dead_letter, subscription.name))
        logger.debug("subscribed %s to %s", subscription.name, key or "everything")

        def unsubscribe() -> None:
            self._drop([subscription])

        return unsubscribe

    def unsubscribe(
        self, handler: Handler, event_type: Listens = None, event_category: EventCategory | str | None = None
    ) -> bool:
        """Remove every registration of ``handler`` for that type, that category, or (neither given) for everything.

        Returns:
            Whether there was one.
        """
        scope, key = _listens_to(event_type, event_category)
        found = [s for s in self._subscriptions if s.handler == handler and s.scope == scope and s.key == key]
        self._drop(found)
        return bool(found)

    def _drop(self, subscriptions: Iterable[Subscription]) -> None:
        gone = set(subscriptions)
        with self._lock:
            kept = [s for s in self._subscriptions if s not in gone]
            for subscription in self._subscriptions:
                if subscription in gone:
                    subscription.active = False
                    self._former[0] += subscription.handled
                    self._former[1] += subscription.failed
            self._subscriptions = kept
            self._routes = {}
            self._crowded -= gone

    def _route(self, event_type: str, category: EventCategory) -> tuple[Subscription, ...]:
        with self._lock:
            found = [
                s
                for s in self._subscriptions
                if s.scope == BY_ALL
                or (s.scope == BY_TYPE and s.key == event_type)
                or (s.scope == BY_CATEGORY and s.key == category)
            ]
            found.sort(key=lambda s: (-s.priority, s.scope, s.order))
            route = self._routes[event_type] = tuple(found)
        return route

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The present subscriptions, in order of registration."""
        return tuple(self._subscriptions)

    # -- publishing ----------------------------------------------------------------------------------------------------

    async def publish(self, event: BaseEvent | DomainEvent, wait_for_handlers: bool = False) -> list[Any] | None:
        """Hand an event to the bus.

        Args:
            event: an infrastructure or a domain event.
            wait_for_handlers: return only when it is committed and its handlers have run, one after another by priority.
                Inside a handler that means: they are run in place, before what their queues hold.

        Returns:
            With ``wait_for_handlers``, the handlers' results in that order (None for one that failed); None if there were
            no handlers, or the event was cancelled or a duplicate, or without ``wait_for_handlers``.

        Raises:
            BusClosed, InvalidEvent (a middleware made it unfit), StoreError (only with ``wait_for_handlers``).
        """
        context = current.get()
        record = self._admit(event, context)
        if self._middleware:
            changed = await self._through_middleware(record)
            if changed is None:
                return None
            record = changed
        if self._sanitise is not None:
            self._sanitise(record)
        if self._crowded and not context.in_handler:
            await self._wait_for_room()
        memory = self._memory
        if memory is None:
            return await self._publish_durably(record, wait_for_handlers, context)
        if not memory.append_one(record):
            return None
        self._note(record)
        self.feed.extend((record,))
        route = self._routes.get(record.event_type)
        if route is None:
            route = self._route(record.event_type, record.event_category)
        if not wait_for_handlers:
            self._enqueue(record, route)
            return None
        return await self._handle_now(record, route, context) if route else None

    async def _publish_durably(self, record: BaseEvent, wait: bool, context: EventContext) -> list[Any] | None:
        loop = asyncio.get_running_loop()
        while self.writer.waiting >= self._writer_queue_size:
            await asyncio.sleep(0.005)
        if not wait:
            self.writer.submit(Submission(loop, (record,), None))
            return None
        submission = Submission(loop, (record,), loop.create_future(), waited=not context.in_handler)
        self.writer.submit(submission)
        assert submission.done is not None
        if (await submission.done)[0] == 0:
            return None
        if context.in_handler:
            route = self._route(record.event_type, record.event_category)
            return await self._run_in_place(record, route) if route else None
        return await submission.finished if submission.finished is not None else None

    async def publish_many(self, events: Sequence[BaseEvent]) -> list[int]:
        """Publish a batch; it is committed together, and on return it is durable.

        Returns:
            For each event its position, 0 if it is a duplicate, -1 if a middleware cancelled it.

        Raises:
            Overloaded: too much is waiting already, nothing was taken. StoreError: nothing was committed. BusClosed.
        """
        context = current.get()
        records = [self._admit(event, context) for event in events]
        positions = [-1] * len(records)
        if self._middleware:
            changed = [await self._through_middleware(record) for record in records]
            places = [index for index, record in enumerate(changed) if record is not None]
            records = [record for record in changed if record is not None]
        else:
            places = list(range(len(records)))
        if self._sanitise is not None:
            for record in records:
                self._sanitise(record)
        if self._crowded and not context.in_handler:
            await self._wait_for_room()
        if not records:
            return positions
        if self._memory is not None:
            stored = self._memory.append(records)
            self._spread(records, stored)
        else:
            if self.writer.waiting + len(records) > self._writer_queue_size:
                raise Overloaded(self.writer.waiting)
            loop = asyncio.get_running_loop()
            done: asyncio.Future[list[int]] = loop.create_future()
            self.writer.submit(Submission(loop, records, done))
            stored = await done
        for place, position in zip(places, stored, strict=True):
            positions[place] = position
        return positions

    def publish_threadsafe(self, event: BaseEvent | DomainEvent) -> Any:
        """Publish from any thread, on the loop that the bus runs under.

        Before the bus has been used under a loop the event waits, and is published as soon as it is.

        Returns:
            A ``concurrent.futures.Future`` that resolves to None once the bus has the event.
        """
        import concurrent.futures

        with self._lock:
            loop = self._loop
            if loop is None or loop.is_closed():
                future: concurrent.futures.Future[None] = concurrent.futures.Future()
                self._inbox.append((event, future))
                return future
        return asyncio.run_coroutine_threadsafe(self._publish_quietly(event), loop)

    async def _publish_quietly(self, event: BaseEvent | DomainEvent) -> None:
        await self.publish(event)

    def _admit(self, event: BaseEvent | DomainEvent, context: EventContext) -> BaseEvent:
        if self._closed:
            raise BusClosed("the event bus is closed")
        if asyncio.get_running_loop() is not self._loop:
            self._bind()
        if isinstance(event, BaseEvent):
            if event.correlation_id is None:
                event.correlation_id = context.correlation_id
            if event.causation_id is None and context.causation_id != event.event_id:
                event.causation_id = context.causation_id
            return event
        if isinstance(event, DomainEvent):
            return DomainRecord.of(event)
        raise TypeError(f"only events can be published, got {type(event).__name__}")

    def _bind(self) -> None:
        """Make the running loop the one on which handlers run; queues of a former loop go on under it."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
            inbox, self._inbox = self._inbox, []
        self._tasks.clear()
        for subscription in self._subscriptions:
            subscription.busy = False
            if subscription.queue:
                self._wake(subscription)
        for event, future in inbox:
            task = self._loop.create_task(self._publish_quietly(event))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda task, future=future: _copy_outcome(task, future))  # type: ignore[misc]

    async def _through_middleware(self, record: BaseEvent) -> BaseEvent | None:
        """The event as the middleware leaves it; None if one cancelled it. A middleware that raises is passed over."""
        for middleware in list(self._middleware):
            before = dict(record.data)
            subject = record.domain if isinstance(record, DomainRecord) else record
            try:
                changed = await middleware(subject)
                if changed is None:
                    self._cancelled += 1
                    logger.debug("event %s cancelled by %s", record.event_id, handler_name(middleware))
                    return None
                if changed is not subject:
                    record = self._admit(changed, current.get())
                elif not isinstance(record, DomainRecord):
                    record.check()
            except Exception as error:
                self._middleware_errors += 1
                record.data = before
                logger.error("middleware %s failed on event %s: %r", handler_name(middleware), record.event_id, error)
        return record

    def _note(self, record: BaseEvent) -> None:
        self._published += 1
        self._last_time_us = record.time_us
        if self._captures:
            subject = record.domain if type(record) is DomainRecord else record
            for captured in self._captures:
                captured.append(subject)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("published %s %s at position %d", record.event_type, record.event_id, record.position)

    # -- delivering ----------------------------------------------------------------------------------------------------

    def _committed(self, submission: Submission, positions: list[int]) -> None:
        """The writer's report, on the loop, in store order."""
        if submission.waited and positions[0]:
            record = submission.events[0]
            self._note(record)
            self.feed.extend((record,))
            route = self._route(record.event_type, record.event_category)
            if route:
                submission.finished = submission.loop.create_future()
                self._enqueue(_InTurn(record, route, submission.finished), route)
        elif submission.done is not None and not submission.waited and len(submission.events) == 1:
            # A handler's own waited publish runs its handlers itself.
            self._spread(submission.events, positions)
        else:
            self._spread(submission.events, positions)
        if submission.done is not None and not submission.done.done():
            submission.done.set_result(positions)

    def _spread(self, records: Sequence[BaseEvent], positions: list[int]) -> None:
        fresh = list(records) if 0 not in positions else [r for r, p in zip(records, positions, strict=True) if p]
        if not fresh:
            return
        self.feed.extend(fresh)
        routes = self._routes
        for record in fresh:
            self._note(record)
            route = routes.get(record.event_type)
            if route is None:
                route = self._route(record.event_type, record.event_category)
                routes = self._routes
            if route:
                self._enqueue(record, route)

    def _enqueue(self, entry: BaseEvent | _InTurn, route: tuple[Subscription, ...]) -> None:
        for subscription in route:
            queue = subscription.queue
            if len(queue) >= self._queue_size:
                if subscription.stalled and not isinstance(entry, _InTurn):
                    self._overflow(subscription, entry)
                    continue
                self._crowded.add(subscription)
            queue.append(entry)
            if not subscription.busy:
                self._wake(subscription)

    def _wake(self, subscription: Subscription) -> None:
        assert self._loop is not None
        subscription.busy = True
        task = self._loop.create_task(self._work(subscription))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, subscription: Subscription) -> None:
        """Empty the subscription's queue; exists only while there is something in it."""
        queue = subscription.queue
        done = 0
        try:
            while queue:
                entry = queue.popleft()
                if not subscription.active and type(entry) is not _InTurn:
                    continue
                if type(entry) is _InTurn:
                    await entry.my_turn(subscription)
                    event = entry.event
                else:
                    event = entry
                current.set(EventContext(event.correlation_id, event.event_id, True))
                result = None
                try:
                    result = await subscription.run(event.domain if type(event) is DomainRecord else event)
                finally:
                    if type(entry) is _InTurn:
                        entry.done(result)
                subscription.stalled = False
                done += 1
                if done % 64 == 0:
                    await asyncio.sleep(0)
        finally:
            subscription.busy = False

    async def _handle_now(
        self, record: BaseEvent, route: tuple[Subscription, ...], context: EventContext
    ) -> list[Any] | None:
        """Run the handlers in place if all of them are idle, else let each take its turn from its queue."""
        if context.in_handler:
            return await self._run_in_place(record, route)
        for subscription in route:
            if subscription.busy or subscription.queue:
                assert self._loop is not None
                finished: asyncio.Future[list[Any] | None] = self._loop.create_future()
                self._enqueue(_InTurn(record, route, finished), route)
                return await finished
        return await self._run_in_place(record, route)

    async def _run_in_place(self, record: BaseEvent, route: tuple[Subscription, ...]) -> list[Any]:
        subject = record.domain if type(record) is DomainRecord else record
        token = current.set(EventContext(record.correlation_id, record.event_id, True))
        results: list[Any] = []
        held: list[Subscription] = []
        try:
            clock = perf_counter_ns
            began = clock()
            for subscription in route:
                value = subscription.start(subject)
                if type(value) is Suspended:
                    if not held:
                        # From here on others may publish: what they send to these handlers must queue behind this event.
                        held = [s for s in route[len(results) :] if not s.busy]
                        for other in held:
                            other.busy = True
                    value = await subscription.finish(value, subject)
                results.append(value)
                ended = clock()
                subscription.seconds_ns += ended - began
                began = ended
                if held and subscription in held:
                    self._release(subscription)
                    held.remove(subscription)
        finally:
            current.reset(token)
            for subscription in held:
                self._release(subscription)
        return results

    def _release(self, subscription: Subscription) -> None:
        subscription.busy = False
        if subscription.queue:
            self._wake(subscription)

    # -- back-pressure and dead letters --------------------------------------------------------------------------------

    async def _wait_for_room(self) -> None:
        """Hold the publisher back while a subscriber that makes progress is behind; give up on one that makes none."""
        for subscription in list(self._crowded):
            progress = -1
            deadline = 0.0
            while len(subscription.queue) >= self._queue_size and subscription.active:
                done = subscription.handled + subscription.failed
                if done != progress:
                    progress, deadline = done, time.monotonic() + STALL_SECONDS
                elif time.monotonic() > deadline:
                    subscription.stalled = True
                    logger.error("subscriber %s is stalled; what it can't take is dead-lettered", subscription.name)
                    break
                await asyncio.sleep(0.002)
            self._crowded.discard(subscription)

    def _overflow(self, subscription: Subscription, entry: BaseEvent | _InTurn) -> None:
        event = entry.event if isinstance(entry, _InTurn) else entry
        self.dead_letter(subscription.name, event, RuntimeError("the subscriber is stalled and its queue is full"), 0)

    def dead_letter(self, consumer: str, event: Any, error: BaseException, attempts: int) -> None:
        """Keep, beside the events, that ``consumer`` gave up on ``event`` (an event or a domain event) after ``attempts``."""
        record = DomainRecord.of(event) if isinstance(event, DomainEvent) else event
        if (consumer, record.event_id) in self._retrying:
            return
        letter = DeadLetter(
            "handlers",
            consumer,
            record.event_id,
            record.to_json(),
            f"{type(error).__name__}: {error}",
            attempts,
            time.time_ns(),
        )
        self.store.add_dead_letter(letter)

    async def retry_dead_letter(self, letter_id: int) -> bool:
        """Give a handler's dead letter to it once more; it is removed if the handler succeeds.

        Returns:
            Whether it succeeded.

        Raises:
            LookupError: there is no such letter, or nobody of that name is subscribed.
        """
        found = self.store.dead_letters(limit=1, after=letter_id - 1)
        if not found or found[0].letter_id != letter_id:
            raise LookupError(f"there is no dead letter {letter_id}")
        letter = found[0]
        for subscription in self._subscriptions:
            if subscription.name == letter.consumer:
                break
        else:
            raise LookupError(f"no subscriber is called {letter.consumer}")
        event = parse_event(letter.payload)
        failed = subscription.failed
        # A handler that gives up again has its letter already.
        self._retrying.add((letter.consumer, letter.event_id))
        try:
            await subscription.run(event.domain if isinstance(event, DomainRecord) else event)
        finally:
            self._retrying.discard((letter.consumer, letter.event_id))
        if subscription.failed > failed:
            return False
        self.store.remove_dead_letter(letter_id)
        return True

    # -- the rest ------------------------------------------------------------------------------------------------------

    def add_middleware(self, middleware: Middleware) -> None:
        """Call the async function ``middleware`` with every event before delivery, in order of registration.

        It returns the event (changed, or another one), or None to cancel it.
        """
        self._middleware.append(middleware)

    @contextmanager
    def capture_events(self) -> Iterator[list[Any]]:
        """A list that the events published inside the ``with`` block are added to, in publish order."""
        captured: list[Any] = []
        self._captures.append(captured)
        try:
            yield captured
        finally:
            # By identity: two captures of the same events are equal lists.
            self._captures = [other for other in self._captures if other is not captured]

    def get_stats(self) -> BusStats:
        """What the bus has done so far."""
        subscriptions = self._subscriptions
        moment = self._last_time_us
        return BusStats(
            total_published=self._published,
            successful_handlers=self._former[0] + sum(s.handled for s in subscriptions),
            failed_handlers=self._former[1] + sum(s.failed for s in subscriptions),
            last_event_time=datetime.fromtimestamp(moment // 1_000_000, UTC).replace(microsecond=moment % 1_000_000)
            if moment
            else None,
            cancelled=self._cancelled,
            queue_depth=self.writer.waiting + sum(len(s.queue) for s in subscriptions),
            dead_letters=sum(self.store.count_dead_letters().values()),
            middleware_errors=self._middleware_errors,
        )

    async def drain(self, timeout: float = 30.0) -> bool:
        """Wait until everything published so far is stored and handled; False if that took longer than ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self.writer.waiting or self._inbox or any(s.queue or s.busy for s in self._subscriptions):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.001)
        return True

    async def clear(self) -> None:
        """Drop all subscriptions and all middleware; what is queued for them is not delivered."""
        with self._lock:
            dropped = self._subscriptions
        self._drop(dropped)
        self._middleware.clear()
        for subscription in dropped:
            subscription.queue.clear()

    async def close(self, timeout: float = 5.0) -> bool:
        """Take no more events, drain, and end the writer. What handlers have not taken by then is dead-lettered.

        Returns:
            Whether everything was handled within ``timeout`` seconds.
        """
        self._closed = True
        began = time.monotonic()
        drained = await self.drain(timeout)
        for task in list(self._tasks):
            task.cancel()
        for subscription in self._subscriptions:
            while subscription.queue:
                self._overflow(subscription, subscription.queue.popleft())
        remaining = max(0.1, timeout - (time.monotonic() - began))
        return await asyncio.to_thread(self.writer.stop, remaining) and drained


def _listens_to(event_type: Listens, event_category: EventCategory | str | None) -> tuple[int, str]:
    if event_type is not None:
        if isinstance(event_type, type):
            if event_type is BaseEvent:
                return BY_ALL, ""
            if event_type is DomainEvent:
                return BY_CATEGORY, EventCategory.DOMAIN
            if issubclass(event_type, DomainEvent):
                return BY_TYPE, event_type.__name__
            if issubclass(event_type, BaseEvent) and event_type.TYPE is not None:
                return BY_TYPE, event_type.TYPE
            raise InvalidEvent("event_type", f"{event_type.__name__} is no event class")
        return BY_TYPE, event_type if event_type in DOMAIN_EVENTS else as_event_type(event_type)
    if event_category is not None:
        return BY_CATEGORY, EventCategory(event_category)
    return BY_ALL, ""


def _copy_outcome(task: asyncio.Task[None], future: Any) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        future.set_exception(error)
    elif not future.cancelled():
        future.set_result(None)


event_bus = EventBus()
