"""Retry for handlers, and what becomes of an event that no retry could save."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any, Self

from agent_runtime.events.subscription import Handler, handler_name

logger = logging.getLogger("agent_runtime.events")


class EventHandlerWithRetry:
    """A handler that is tried again when it fails, then dead-lettered.

    Works around a handler, and as a decorator under ``@event_bus.subscribe(...)``.

    Args:
        handler: what to call; None when used as a decorator.
        max_retries: attempts in total, at least 1.
        retry_delay: seconds; before attempt n + 1 it waits ``retry_delay * n``.

    Raises:
        ValueError: ``max_retries`` is below 1, or ``retry_delay`` is negative.
    """

    def __init__(self, handler: Handler | None = None, max_retries: int = 3, retry_delay: float = 1.0) -> None:
        if max_retries < 1:
            raise ValueError(f"max_retries counts all attempts, so it must be at least 1, got {max_retries}")
        if retry_delay < 0:
            raise ValueError(f"retry_delay must not be negative, got {retry_delay}")
        self.handler = handler
        self.max_retries = max_retries
        self.retry_delay = retry_delay
        self._dead_letter: Callable[[Any, BaseException, int], None] | None = None

    def bind_dead_letters(self, dead_letter: Callable[[Any, BaseException, int], None]) -> None:
        """Called by the bus at subscription: where an event goes that was given up, with the error and the attempts."""
        self._dead_letter = dead_letter

    def __call__(self, event: Any) -> Any:
        """As a decorator: take the handler. As a handler: a coroutine that handles ``event``."""
        if self.handler is None:
            self.handler = event
            return self
        return self._handle(event)

    async def _handle(self, event: Any) -> Any:
        assert self.handler is not None
        name = handler_name(self.handler)
        for attempt in range(1, self.max_retries + 1):
            try:
                result = self.handler(event)
                return await result if inspect.isawaitable(result) else result
            except Exception as error:
                if attempt == self.max_retries:
                    logger.error("handler %s gave up after %d attempts: %r", name, attempt, error)
                    if self._dead_letter is not None:
                        self._dead_letter(event, error, attempt)
                    raise
                logger.warning("handler %s failed, attempt %d of %d: %r", name, attempt, self.max_retries, error)
                await asyncio.sleep(self.retry_delay * attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def __get__(self, instance: object, owner: type) -> Self:
        return self
