"""One registration of a handler, and what can be known about a handler before it is run."""

from __future__ import annotations

import dis
import functools
import inspect
import logging
from collections import deque
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_runtime.events.worker import Worker

logger = logging.getLogger("agent_runtime.events")

Handler = Callable[[Any], Any]


class Subscription:
    """A handler, what it listens to, its queue and its figures.

    Attributes:
        instant: its handler can't wait, so it is run on the spot, without a task.
        is_async: calling its handler gives a coroutine.
        ready: it is instant, and nothing is queued for it or at work.
        active: it has not been unsubscribed.
        queue: what it has yet to handle, in store order: events, and ``Waited`` ones.
        begun: an awaitable that its plain handler returned for the first entry of the queue.
        worker: who empties the queue.
        late: its queue is not empty, and it has kept another subscriber waiting for too long.
        stalled: its queue is full and it makes no progress; what does not fit is dead-lettered.
        handled, failed: outcomes so far. seconds: time spent in the handler.
    """

    __slots__ = (
        "active",
        "begun",
        "failed",
        "handled",
        "handler",
        "instant",
        "is_async",
        "key",
        "late",
        "name",
        "order",
        "priority",
        "queue",
        "ready",
        "scope",
        "seconds",
        "stalled",
        "timeout",
        "worker",
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
        self.is_async, self.instant = _nature(handler)
        self.ready = self.instant
        self.active = True
        self.queue: deque[Any] = deque()
        self.begun: Any = None
        self.worker: Worker | None = None
        self.late = False
        self.stalled = False
        self.handled = 0
        self.failed = 0
        self.seconds = 0.0

    @property
    def seconds_ns(self) -> int:
        """Time spent in the handler, nanoseconds."""
        return round(self.seconds * 1e9)

    def fail(self, subject: Any, error: BaseException) -> None:
        """Count and log a failure of the handler."""
        self.failed += 1
        event_id = getattr(subject, "event_id", None)
        logger.error("handler %s failed on event %s: %r", self.name, event_id, error, exc_info=error)

    def has_come_back(self, value: Any) -> None:
        """A handler that was taken for a plain function has returned an awaitable: from now on it needs a task."""
        self.instant = self.ready = False
        self.begun = value

    def rest(self) -> None:
        """Its queue is empty and nobody is at work on it."""
        self.worker = None
        self.late = False
        self.ready = self.instant and self.active

    def end(self) -> None:
        """It is unsubscribed: its handler is not called any more."""
        self.active = self.ready = False


def handler_name(handler: Handler) -> str:
    """A readable name of any callable: function, bound method, partial or callable object."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    inner = getattr(handler, "handler", None)
    if callable(inner) and not hasattr(handler, "__qualname__"):
        return handler_name(inner)
    named = handler if hasattr(handler, "__qualname__") else type(handler)
    return f"{named.__module__}.{named.__qualname__}"


def check_handler(handler: Handler) -> None:
    """Refuse what can't be a handler.

    Raises:
        TypeError: it can't be called, or calling it would run nothing, because it is a generator.
    """
    if not callable(handler):
        raise TypeError(f"a handler must be callable, got {type(handler).__name__}")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"a handler must not be a generator: {handler_name(handler)}")


def _nature(handler: Handler) -> tuple[bool, bool]:
    """Whether calling ``handler`` gives a coroutine, and whether it is instant: sure never to wait.

    A coroutine whose code has no ``await`` in it runs to its end at once. A plain function is taken for instant until
    it returns an awaitable.
    """
    code = _code(handler)
    if code is None or not code.co_flags & inspect.CO_COROUTINE:
        return False, True
    # Who asks for the task it runs in must have one of its own, above all if it goes on to cancel it.
    waits = "current_task" in code.co_names or any(step.opname == "SEND" for step in dis.get_instructions(code))
    return True, not waits


def _code(handler: Handler) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    function: Any = getattr(handler, "__func__", handler)
    if not isinstance(function, FunctionType):
        function = inspect.getattr_static(type(function), "__call__", None)
    return function.__code__ if isinstance(function, FunctionType) else None
