"""What those that write behind share: a loop, batches, and a last flush that leaves nothing out."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

logger = logging.getLogger("agent_runtime.persistence")

BATCH = 50
RETRY_SECONDS = 0.1

# Makes what it is given the id of durable; raises if it could not.
Save = Callable[[str], Awaitable[None]]


async def save_batches(jobs: Sequence[tuple[Save, str]], batch_size: int = BATCH) -> list[bool]:
    """Save everything, ``batch_size`` at a time.

    Returns:
        Whether each was saved, in order. A failure is logged, and keeps nothing else from being saved.
    """
    saved: list[bool] = []
    left = iter(jobs)
    while batch := list(islice(left, batch_size)):
        outcomes = await asyncio.gather(*(save(session_id) for save, session_id in batch), return_exceptions=True)
        for (_, session_id), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                logger.error("session %s could not be saved, and will be tried again: %r", session_id, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            saved.append(outcome is None)
    return saved


class WriteBehind(ABC):
    """Flushes every ``every_seconds`` between ``start`` and ``stop``, and everything at the end.

    Args:
        every_seconds: how long to wait between two flushes.
    """

    name: str

    def __init__(self, every_seconds: float) -> None:
        self._every_seconds = every_seconds
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    @abstractmethod
    def pending(self) -> int:
        """How much is still to be saved."""

    @abstractmethod
    async def flush(self, everything: bool = False) -> int:
        """Save what is due, or everything that is pending; returns how much was saved. A failure stays pending."""

    def start(self) -> None:
        """Flush from time to time, in the background."""
        self._stopping.clear()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self, timeout: float = 5.0) -> int:
        """Stop flushing, and save everything; what fails is tried again until ``timeout`` seconds have passed.

        Returns:
            How much could not be saved; 0 in good order.
        """
        self._stopping.set()
        try:
            async with asyncio.timeout(timeout):
                if self._task is not None:
                    await self._task
                await self._flush_all(time.monotonic() + timeout - RETRY_SECONDS)
        except TimeoutError:
            pass
        self._task = None
        if self.pending:
            logger.critical("%s stopped with %d sessions that could not be saved", self.name, self.pending)
        return self.pending

    async def _flush_all(self, deadline: float) -> None:
        await self.flush(everything=True)
        while self.pending and time.monotonic() < deadline:
            await asyncio.sleep(RETRY_SECONDS)
            await self.flush(everything=True)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(self._every_seconds):
                    await self._stopping.wait()
            except TimeoutError:
                try:
                    await self.flush()
                except Exception:
                    logger.exception("%s could not flush, and will try again", self.name)
