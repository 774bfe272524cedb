"""What stands between a publisher and the store: middleware, and the sanitiser behind it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.domain_events import DomainEvent, DomainRecord
from agent_runtime.events.subscription import handler_name

logger = logging.getLogger("agent_runtime.events")

Middleware = Callable[[Any], Awaitable[Any]]


class MiddlewareChain:
    """Async functions that every event passes, in order of registration, and at the end ``sanitise``.

    Attributes:
        active: whether there is anything to pass.
        cancelled: how many events were cancelled. errors: how often a middleware failed.
    """

    def __init__(self, sanitise: Callable[[BaseEvent], None] | None) -> None:
        self._sanitise = sanitise
        self._middleware: tuple[Middleware, ...] = ()
        self.active = sanitise is not None
        self.cancelled = 0
        self.errors = 0

    def add(self, middleware: Middleware) -> None:
        """Put ``middleware`` behind those that are there already."""
        self._middleware = (*self._middleware, middleware)
        self.active = True

    def clear(self) -> None:
        """Drop all middleware; the sanitiser stays."""
        self._middleware = ()
        self.active = self._sanitise is not None

    async def apply(self, record: BaseEvent) -> BaseEvent | None:
        """The event as it is to be stored; None if a middleware cancelled it.

        A middleware that raises, or makes the event unfit, is passed over: the event goes on as it was before. What the
        sanitiser raises goes to the publisher: better not stored than stored with a secret in it.
        """
        passed: BaseEvent | None = record
        for middleware in self._middleware:
            passed = await self._pass(middleware, record)
            if passed is None:
                self.cancelled += 1
                logger.debug("event %s cancelled by %s", record.event_id, handler_name(middleware))
                return None
            record = passed
        if self._sanitise is not None:
            self._sanitise(record)
        return record

    async def _pass(self, middleware: Middleware, record: BaseEvent) -> BaseEvent | None:
        subject = record.domain if isinstance(record, DomainRecord) else record
        before = [getattr(record, slot) for slot in BaseEvent.__slots__]
        data = orjson.dumps(record.data)
        try:
            changed = await middleware(subject)
            if changed is None:
                return None
            if isinstance(changed, DomainEvent):
                return record if changed is subject else DomainRecord.of(changed)
            if not isinstance(changed, BaseEvent):
                raise TypeError(f"a middleware must return an event or None, got {type(changed).__name__}")
            changed.check()
            return changed
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            self.errors += 1
            for slot, value in zip(BaseEvent.__slots__, before, strict=True):
                setattr(record, slot, value)
            record.data = orjson.loads(data)
            logger.error("middleware %s failed on event %s: %r", handler_name(middleware), record.event_id, error)
            return record
