"""Where events from other threads wait for the bus's own loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import Context

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.errors import BusClosed, Overloaded


class Inbox:
    """Publishes on a loop, one after another, what any thread puts in.

    Args:
        publish: what to do with an event.
        size: how many events may wait.

    Attributes:
        task: who publishes at present.
    """

    def __init__(self, publish: Callable[[BaseEvent], Awaitable[object]], size: int) -> None:
        self.task: asyncio.Task[None] | None = None
        self._publish = publish
        self._size = size
        self._waiting: deque[tuple[BaseEvent, Future[None]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, event: BaseEvent, loop: asyncio.AbstractEventLoop | None) -> Future[None]:
        """Have ``event`` published on ``loop``, or when ``open`` is called; resolved when that is done.

        Raises:
            Overloaded: too many wait already.
        """
        if len(self._waiting) >= self._size:
            raise Overloaded(len(self._waiting))
        future: Future[None] = Future()
        self._waiting.append((event, future))
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.open, context=Context())
        return future

    def open(self) -> None:
        """Publish what waits. Called on the loop."""
        loop = asyncio.get_running_loop()
        if self._waiting and (self.task is None or self.task.get_loop() is not loop):
            self.task = loop.create_task(self._empty(), name="events from other threads", context=Context())

    async def _empty(self) -> None:
        try:
            while self._waiting:
                event, future = self._waiting[0]
                if future.set_running_or_notify_cancel():
                    try:
                        await self._publish(event)
                    except Exception as error:
                        future.set_exception(error)
                    else:
                        future.set_result(None)
                self._waiting.popleft()
        finally:
            self.task = None

    def refuse(self) -> None:
        """Tell everyone who still waits that the bus is closed."""
        if self.task is not None:
            self.task.cancel()
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(BusClosed("the event bus is closed"))
