"""One registration of a handler, and how a handler is run without being able to hurt anyone."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from time import perf_counter_ns
from types import CoroutineType
from typing import Any

logger = logging.getLogger("agent_runtime.events")

Handler = Callable[[Any], Any]


class Suspended:
    """A handler that has run up to its first wait; awaiting it runs the rest."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, waits_for = self._coroutine, self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:
                    waits_for = coroutine.throw(error)
                else:
                    waits_for = coroutine.send(sent)
        except StopIteration as stop:
            return stop.value


class Subscription:
    """A handler, what it listens to, its queue and its figures.

    Attributes:
        queue: what it has yet to handle, in store order; entries are the bus's.
        busy: somebody is running it; whoever comes next must queue.
        stalled: its queue is full and it makes no progress; what does not fit is dead-lettered.
        handled, failed: outcomes so far. seconds_ns: time spent in the handler, nanoseconds.
    """

    __slots__ = (
        "handler",
        "name",
        "scope",
        "key",
        "priority",
        "order",
        "timeout",
        "queue",
        "busy",
        "stalled",
        "active",
        "handled",
        "failed",
        "seconds_ns",
    )

    def __init__(
        self, handler: Handler, name: str, scope: int, key: str, priority: int, order: int, timeout: float | None
    ) -> None:
        self.handler = handler
        self.name = name
        self.scope = scope
        self.key = key
        self.priority = priority
        self.order = order
        self.timeout = timeout
        self.queue: deque[Any] = deque()
        self.busy = False
        self.stalled = False
        self.active = True
        self.handled = 0
        self.failed = 0
        self.seconds_ns = 0

    def start(self, subject: Any) -> Any:
        """Run the handler up to its end or its first wait.

        Returns:
            Its result, None if it failed, or a ``Suspended`` to be given to ``finish``. Never raises what the handler raises.
        """
        try:
            value = self.handler(subject)
            if type(value) is CoroutineType:
                try:
                    return Suspended(value, value.send(None))
                except StopIteration as stop:
                    value = stop.value
            elif value is not None and hasattr(value, "__await__"):
                return self.start_awaitable(value)
        except (Exception, asyncio.CancelledError) as error:
            self.fail(subject, error)
            return None
        self.handled += 1
        return value

    def start_awaitable(self, value: Awaitable[Any]) -> Any:
        """As ``start``, for a plain function that returned a future or another awaitable."""

        async def wait() -> Any:
            return await value

        coroutine = wait()
        try:
            return Suspended(coroutine, coroutine.send(None))
        except StopIteration as stop:
            self.handled += 1
            return stop.value

    async def finish(self, suspended: Suspended, subject: Any) -> Any:
        """Run a suspended handler to its end, at most ``timeout`` seconds; its result, or None if it failed."""
        try:
            if self.timeout is None:
                value = await suspended
            else:
                async with asyncio.timeout(self.timeout):
                    value = await suspended
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self.fail(subject, error)
            return None
        except TimeoutError as error:
            self.fail(subject, error if str(error) else TimeoutError(f"not done within {self.timeout} s"))
            return None
        except Exception as error:
            self.fail(subject, error)
            return None
        self.handled += 1
        return value

    async def run(self, subject: Any) -> Any:
        """Run the handler to its end; its result, or None if it failed."""
        began = perf_counter_ns()
        value = self.start(subject)
        if type(value) is Suspended:
            value = await self.finish(value, subject)
        self.seconds_ns += perf_counter_ns() - began
        return value

    def fail(self, subject: Any, error: BaseException) -> None:
        """Count and log a failure of the handler."""
        self.failed += 1
        event_id = getattr(subject, "event_id", None)
        logger.error("handler %s failed on event %s: %r", self.name, event_id, error, exc_info=error)


def handler_name(handler: Handler) -> str:
    """A readable name of any callable: function, bound method, partial or callable object."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    inner = getattr(handler, "handler", None)
    if callable(inner) and not hasattr(handler, "__qualname__"):
        return handler_name(inner)
    named = handler if hasattr(handler, "__qualname__") else type(handler)
    return f"{named.__module__}.{named.__qualname__}"
