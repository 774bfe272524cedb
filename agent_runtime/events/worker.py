"""How a handler that may wait is run: in a task of its subscription's own, without being able to hurt anyone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from time import perf_counter
from types import CoroutineType
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import current
from agent_runtime.events.domain_events import DomainRecord
from agent_runtime.events.subscription import Subscription

PATIENCE_SECONDS = 1.0
SLICE_SECONDS = 0.005

GiveUp = Callable[[Subscription, BaseEvent, BaseException], None]


class Waited:
    """An event whose publisher waits until its handlers have run, one after another by priority.

    Each handler takes it from its subscription's queue, so that all of them see events in store order. Who keeps the
    others waiting for more than a second is not waited for any longer, except by the publisher.

    Args:
        event: the event.
        route: the subscriptions that have yet to handle it, in order.
        results: of those that have handled it already.
        finished: resolved with the results of all.
    """

    __slots__ = ("_ahead", "_finished", "_places", "_results", "_turns", "event")

    def __init__(
        self,
        event: BaseEvent,
        route: Sequence[Subscription],
        results: list[Any],
        finished: asyncio.Future[list[Any] | None],
    ) -> None:
        self.event = event
        self._places = {subscription: place for place, subscription in enumerate(route, len(results))}
        self._results = results + [None] * len(route)
        self._ahead = list(route)
        self._turns: list[tuple[Subscription, asyncio.Future[None]]] = []
        self._finished = finished

    def may_go(self, subscription: Subscription) -> bool:
        """Whether all those before ``subscription`` are done, or late."""
        for other in self._ahead:
            if other is subscription:
                return True
            if not other.late:
                return False
        return True

    async def turn(self, subscription: Subscription) -> None:
        """Wait until it may be the turn of ``subscription``."""
        loop = asyncio.get_running_loop()
        turn = (subscription, loop.create_future())
        self._turns.append(turn)
        timer = loop.call_later(PATIENCE_SECONDS, self._lose_patience, *turn)
        try:
            await turn[1]
        finally:
            timer.cancel()
            self._turns.remove(turn)

    def _lose_patience(self, subscription: Subscription, turn: asyncio.Future[None]) -> None:
        if subscription in self._ahead:
            for other in self._ahead[: self._ahead.index(subscription)]:
                other.late = True
        resolve(turn)

    def let_pass(self, subscription: Subscription) -> None:
        """Those behind ``subscription`` need not wait for it."""
        if subscription in self._ahead:
            self._ahead.remove(subscription)
            for other, turn in self._turns:
                if self.may_go(other):
                    resolve(turn)

    def done(self, subscription: Subscription, result: Any) -> None:
        """``subscription`` has handled the event, or never will."""
        place = self._places.pop(subscription, None)
        if place is None:
            return
        self._results[place] = result
        self.let_pass(subscription)
        if not self._places:
            resolve(self._finished, self._results)


class Attempt:
    """A handler at work in a worker; whatever it publishes finds it in ``at_work``."""

    __slots__ = ("_waits", "_worker", "over")

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waits = 0
        self.over = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the handler waits for an event of its own, nobody may have to wait for the handler.

        What it waits for may be its own subscription's to handle, or that of one whose turn comes after it. So its
        queue goes on without it meanwhile, and the turn passes to the next.
        """
        if self.over:
            yield
            return
        self._waits += 1
        if self._waits == 1:
            self._worker.lend()
        try:
            yield
        finally:
            self._waits -= 1
            if self._waits == 0 and not self.over:
                self._worker.take_back()


at_work: ContextVar[Attempt | None] = ContextVar("agent_runtime_handler_at_work", default=None)


class Worker:
    """Empties one subscription's queue, one event after another. It exists only while there is something in it.

    Args:
        subscription: whose queue.
        wake: starts another worker.
        popped: called when there is room for one more event in the queue.
        give_up: called with what was begun and can't be finished, because the worker was cancelled.
    """

    def __init__(
        self,
        subscription: Subscription,
        wake: Callable[[Subscription], None],
        popped: Callable[[Subscription], None],
        give_up: GiveUp,
    ) -> None:
        self._subscription = subscription
        self._wake = wake
        self._popped = popped
        self._give_up = give_up
        self._waited: Waited | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._expired = False

    async def run(self) -> None:
        """Handle what is queued, until the queue is empty, or another worker has it."""
        subscription = self._subscription
        queue = subscription.queue
        task = self._task = asyncio.current_task()
        assert task is not None
        until = perf_counter() + SLICE_SECONDS
        try:
            while queue and subscription.worker is self and not task.cancelling():
                entry = queue[0]
                if type(entry) is Waited and subscription.begun is None and not entry.may_go(subscription):
                    # It stays in the queue meanwhile: the queue may get another owner, or be emptied.
                    await entry.turn(subscription)
                    continue
                queue.popleft()
                self._popped(subscription)
                await self._handle(entry)
                if perf_counter() > until:
                    await asyncio.sleep(0)
                    until = perf_counter() + SLICE_SECONDS
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if subscription.worker is self:
                subscription.rest()
                if queue:
                    subscription.ready = False

    async def _handle(self, entry: BaseEvent | Waited) -> None:
        subscription = self._subscription
        result = None
        waited = self._waited = entry if type(entry) is Waited else None
        event = entry if isinstance(entry, BaseEvent) else entry.event
        try:
            if subscription.active or subscription.begun is not None:
                result = await self._attempt(event)
                subscription.stalled = False
        except BaseException as error:
            self._give_up(subscription, event, error)
            raise
        finally:
            if waited is not None:
                waited.done(subscription, result)

    async def _attempt(self, event: BaseEvent) -> Any:
        """The handler's result, None if it failed. Raises only if the worker itself is to end."""
        subscription = self._subscription
        subject = event.domain if type(event) is DomainRecord else event
        steps = None
        attempt = Attempt(self)
        current.set(event)
        at_work.set(attempt)
        began = perf_counter()
        try:
            value, subscription.begun = subscription.begun, None
            if value is None:
                value = subscription.handler(subject)
            if value is not None and hasattr(value, "__await__"):
                steps = _Steps(value, self._task)
                self._set_timer()
                value = await steps
        except asyncio.CancelledError as error:
            if self._expired:
                subscription.fail(subject, TimeoutError(f"not done within {subscription.timeout} s"))
            elif self._task.cancelling() and not (steps and steps.cancelled_itself):  # type: ignore[union-attr]
                raise
            else:
                subscription.fail(subject, error)
            return None
        except Exception as error:
            subscription.fail(subject, error)
            return None
        else:
            subscription.handled += 1
            return value
        finally:
            subscription.seconds += perf_counter() - began
            attempt.over = True
            self._deadline = 0.0
            if subscription.worker is None:
                subscription.worker = self
            if self._expired or (steps and steps.cancelled_itself):
                await self._absorb()

    async def _absorb(self) -> None:
        """Forget a cancellation that was meant for the handler."""
        self._expired = False
        assert self._task is not None
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        while self._task.cancelling():
            self._task.uncancel()

    # One timer serves all events of a worker: it looks at the deadline of the handler that is at work when it rings.

    def _set_timer(self) -> None:
        timeout = self._subscription.timeout
        if timeout is not None:
            self._deadline = self._loop.time() + timeout
            if self._timer is None:
                self._timer = self._loop.call_at(self._deadline, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._ring)
            return
        self._expired = True
        assert self._task is not None
        self._task.cancel()

    def lend(self) -> None:
        """Let others go on while this worker's handler waits for them."""
        subscription = self._subscription
        if self._waited is not None:
            self._waited.let_pass(subscription)
        if subscription.worker is self:
            subscription.worker = None
            if subscription.queue:
                self._wake(subscription)

    def take_back(self) -> None:
        """Be the one again who empties the queue; who does it now stops behind its present event."""
        self._subscription.worker = self


class _Steps:
    """Awaits what a handler gave, and notices if the handler cancels the task that it runs in."""

    __slots__ = ("_coroutine", "_task", "cancelled_itself")

    def __init__(self, awaitable: Awaitable[Any], task: asyncio.Task[None] | None) -> None:
        self._coroutine: Coroutine[Any, Any, Any] = awaitable if type(awaitable) is CoroutineType else _await(awaitable)
        self._task = task
        self.cancelled_itself = False

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, task = self._coroutine, self._task
        assert task is not None
        step: Callable[[Any], Any] = coroutine.send
        argument: Any = None
        while True:
            requests = task.cancelling()
            try:
                waits_for = step(argument)
            except StopIteration as stop:
                return stop.value
            finally:
                if task.cancelling() > requests:
                    self.cancelled_itself = True
            try:
                argument = yield waits_for
                step = coroutine.send
            except BaseException as error:
                step, argument = coroutine.throw, error


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def resolve(future: asyncio.Future[Any], value: Any = None) -> None:
    """Give ``future`` its result, if anyone can still take it."""
    if not future.done() and not future.get_loop().is_closed():
        future.set_result(value)
