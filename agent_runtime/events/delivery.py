"""From committed events to handlers: each subscription gets its events once, in store order, and who is slow lags
alone."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from contextvars import Context
from time import perf_counter
from types import CoroutineType
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import current
from agent_runtime.events.domain_events import DomainRecord
from agent_runtime.events.routing import Route
from agent_runtime.events.subscription import Subscription
from agent_runtime.events.worker import SLICE_SECONDS, GiveUp, Waited, Worker, at_work, resolve

logger = logging.getLogger("agent_runtime.events")

Finished = asyncio.Future[list[Any] | None]

STALL_SECONDS = 2.0


class Delivery:
    """Runs handlers on one event loop.

    Instant handlers are run one after another on the spot; every other subscription has a queue of its own, and a task
    while there is something in it. What is published without waiting goes through ``pending`` first, so that the
    publisher goes on at once.

    Args:
        subscriptions: all that there are at present.
        queue_size: how many events may wait for one subscription, and in ``pending``, before publishers are held back.
        give_up: called with what a subscription can't take or can't finish.

    Attributes:
        full: publishers must wait for ``room``.
        loop: the event loop that handlers run on; None until the bus is used under one.
    """

    def __init__(self, subscriptions: Callable[[], Iterable[Subscription]], queue_size: int, give_up: GiveUp) -> None:
        self.full = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.pending: deque[tuple[BaseEvent, Route, Finished | None]] = deque()
        self._subscriptions = subscriptions
        self._size = queue_size
        self._give_up = give_up
        self._crowded: set[Subscription] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pumping = False
        self._room = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or at work."""
        return not self.pending and not self._tasks and not any(s.queue for s in self._subscriptions())

    # -- in ------------------------------------------------------------------------------------------------------------

    def offer(self, event: BaseEvent, route: Route, finished: Finished | None = None) -> None:
        """Let the handlers of ``route`` have ``event`` soon, behind what was offered before."""
        if not route:
            if finished is not None:
                resolve(finished)
            return
        self.pending.append((event, route, finished))
        if not self._pumping:
            self._pump_soon()
        if len(self.pending) >= self._size:
            self.full = True

    async def handle(self, event: BaseEvent, route: Route) -> list[Any] | None:
        """Let the handlers of ``route`` have ``event`` one after another, and return their results."""
        results: list[Any] = []
        if not self.pending:
            await self.run(event, route, results)
        return results if len(results) == len(route) else await self.finish(event, route, results)

    async def finish(self, event: BaseEvent, route: Route, results: list[Any]) -> list[Any] | None:
        """As ``handle``, where the first handlers have run already and given ``results``."""
        finished: Finished = self.bind().create_future()
        if results or not self.pending:
            self._queue_rest(event, route, results, finished)
        else:
            self.offer(event, route, finished)
        with waiting():
            return await finished

    # -- running -------------------------------------------------------------------------------------------------------

    async def run(self, event: BaseEvent, route: Iterable[Subscription], results: list[Any]) -> float:
        """Run the handlers of ``route`` up to the first that is not ready, and add what they return to ``results``.

        It never waits. Returns the time at its end.
        """
        subject = event.domain if type(event) is DomainRecord else event
        token = current.set(event)
        clock = perf_counter
        began = clock()
        for subscription in route:
            if not subscription.ready:
                break
            try:
                if subscription.is_async:
                    value = await subscription.handler(subject)
                else:
                    value = subscription.handler(subject)
                    if value is not None and hasattr(value, "__await__"):
                        subscription.has_come_back(value)
                        break
            except (Exception, asyncio.CancelledError) as error:
                subscription.fail(subject, error)
                value = None
            else:
                subscription.handled += 1
            results.append(value)
            ended = clock()
            subscription.seconds += ended - began
            began = ended
        current.reset(token)
        return began

    async def _run_pending(self) -> None:
        """Hand out what is pending, for a few milliseconds. It never waits."""
        pending = self.pending
        now = perf_counter()
        until = now + SLICE_SECONDS
        while pending and now < until:
            event, route, finished = pending.popleft()
            results: list[Any] = []
            now = await self.run(event, route, results)
            if len(results) == len(route):
                if finished is not None:
                    resolve(finished, results)
            elif finished is not None:
                self._queue_rest(event, route, results, finished)
            else:
                await self._spread(event, route[len(results) :])

    async def _spread(self, event: BaseEvent, route: Route) -> None:
        """Run the handlers that are ready; the others get the event into their queues."""
        while route:
            if route[0].active or route[0].begun is not None:
                self._enqueue(event, route[0])
            route = route[1:]
            results: list[Any] = []
            await self.run(event, route, results)
            route = route[len(results) :]

    def _queue_rest(self, event: BaseEvent, route: Route, results: list[Any], finished: Finished) -> None:
        rest = route[len(results) :]
        waited = Waited(event, rest, results, finished)
        for subscription in rest:
            if subscription.active or subscription.begun is not None:
                self._enqueue(waited, subscription)
            else:
                waited.done(subscription, None)

    def pump(self) -> None:
        """Hand out what is pending. Called on the loop."""
        try:
            self._run_pending().send(None)
        except StopIteration:
            pass
        finally:
            self._pumping = False
            if self.pending:
                self._pump_soon()
            if self.full:
                self._look_for_room()

    def _pump_soon(self) -> None:
        # Not in the publisher's context: what is handed out there is of other publishers, too.
        self.bind().call_soon(self.pump, context=Context())
        self._pumping = True

    def _enqueue(self, entry: BaseEvent | Waited, subscription: Subscription) -> None:
        queue = subscription.queue
        if len(queue) >= self._size and subscription.begun is None:
            if subscription.stalled and isinstance(entry, BaseEvent):
                error = RuntimeError("the subscriber is stalled and its queue is full")
                self._give_up(subscription, entry, error)
                return
            if subscription not in self._crowded:
                self._crowded.add(subscription)
                self.full = True
                self._judge_later(subscription)
        queue.append(entry)
        subscription.ready = False
        if subscription.worker is None:
            self._wake(subscription)

    def _wake(self, subscription: Subscription) -> None:
        loop = self.bind()
        worker = subscription.worker = Worker(subscription, self._wake, self._popped, self._give_up)
        task = loop.create_task(worker.run(), name=f"events for {subscription.name}", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- back-pressure -------------------------------------------------------------------------------------------------

    async def room(self) -> None:
        """Hold a publisher back while a subscription that makes progress has a full queue.

        A handler is never held back: it may be the one that has to empty the queue.
        """
        attempt = at_work.get()
        if attempt is not None and not attempt.over:
            return
        self.bind()
        while self.full:
            self._room.clear()
            await self._room.wait()

    def _popped(self, subscription: Subscription) -> None:
        if self._crowded and subscription in self._crowded and len(subscription.queue) < self._size:
            self._crowded.discard(subscription)
            self._look_for_room()

    def _look_for_room(self) -> None:
        self.full = bool(self._crowded) or len(self.pending) >= self._size
        if not self.full:
            self._room.set()

    def _judge_later(self, subscription: Subscription) -> None:
        done = subscription.handled + subscription.failed
        self.bind().call_later(STALL_SECONDS, self._judge, subscription, done)

    def _judge(self, subscription: Subscription, done_before: int) -> None:
        if subscription not in self._crowded:
            return
        if subscription.handled + subscription.failed > done_before:
            self._judge_later(subscription)
            return
        subscription.stalled = True
        logger.error("subscriber %s is stalled; what it can't take is dead-lettered", subscription.name)
        self._crowded.discard(subscription)
        self._look_for_room()

    # -- loops and ends ------------------------------------------------------------------------------------------------

    def bind(self) -> asyncio.AbstractEventLoop:
        """The running loop, which becomes the one that handlers run on; what a former loop has left goes on here.

        Raises:
            RuntimeError: handlers are at work on another loop that still runs.
        """
        loop = asyncio.get_running_loop()
        former = self.loop
        if loop is not former:
            if former is not None and former.is_running() and not self.idle:
                raise RuntimeError("the event bus is in use under another event loop; use publish_threadsafe")
            self.loop = loop
            self._tasks = set()
            self._pumping = False
            self._room = asyncio.Event()
            self.pending = deque((event, route, None) for event, route, _ in self.pending)
            for subscription in self._subscriptions():
                self._resume(subscription)
            if self.pending:
                self._pump_soon()
            self._crowded.clear()
            self._look_for_room()
        return loop

    def _resume(self, subscription: Subscription) -> None:
        """Go on with a queue after its loop has ended, and with it whoever waited for results."""
        subscription.queue = deque(e.event if type(e) is Waited else e for e in subscription.queue)
        if not isinstance(subscription.begun, CoroutineType):
            # A future of a loop that is gone: the handler is called anew.
            subscription.begun = None
        subscription.rest()
        if subscription.queue:
            subscription.ready = False
            self._wake(subscription)

    def purge(self, subscriptions: Iterable[Subscription]) -> None:
        """Forget what is queued for former subscriptions. Called on the loop, or while there is none."""
        for subscription in subscriptions:
            while subscription.queue:
                entry = subscription.queue.popleft()
                if type(entry) is Waited:
                    entry.done(subscription, None)
            if subscription in self._crowded:
                self._crowded.discard(subscription)
                self._look_for_room()

    async def end(self, timeout: float) -> None:
        """Stop all workers; what they have not finished, and what is still queued, is given up."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        error = RuntimeError("the bus was closed before the subscriber got to it")
        while self.pending:
            event, route, finished = self.pending.popleft()
            for subscription in route:
                self._give_up(subscription, event, error)
            if finished is not None:
                resolve(finished)
        for subscription in self._subscriptions():
            while subscription.queue:
                entry = subscription.queue.popleft()
                self._give_up(subscription, entry if isinstance(entry, BaseEvent) else entry.event, error)
                if type(entry) is Waited:
                    entry.done(subscription, None)


def waiting() -> Any:
    """Around the wait of a publisher: if it is a handler, others need not wait for it meanwhile."""
    attempt = at_work.get()
    return nullcontext() if attempt is None else attempt.waiting()
