"""Sessions in which nothing happens any more come to an end by themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from agent_runtime.events.domain_events import SessionExpired, to_infrastructure_event
from agent_runtime.events.event_bus import EventBus
from agent_runtime.sessions.errors import SessionsError
from agent_runtime.sessions.manager import SessionManager

logger = logging.getLogger("agent_runtime.sessions")

PAGE = 100


async def _never(_: str) -> bool:
    return False


class SessionExpiry:
    """Ends idle sessions, and publishes ``SessionExpired`` with the ``session_deleted`` that it caused.

    Args:
        bus: where it publishes.
        sessions: whose sessions expire.
        idle_seconds: how long nothing may have happened.
        every_seconds: how often it looks.
        busy: whether something of a session is still waited for, such as an approval; it does not expire then.
    """

    def __init__(
        self,
        bus: EventBus,
        sessions: SessionManager,
        idle_seconds: float,
        *,
        every_seconds: float = 60.0,
        busy: Callable[[str], Awaitable[bool]] = _never,
    ) -> None:
        self._bus = bus
        self._sessions = sessions
        self._idle = timedelta(seconds=idle_seconds)
        self._every_seconds = every_seconds
        self._busy = busy
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def expire(self, now: datetime | None = None) -> list[str]:
        """End every session that is idle at ``now``.

        Returns:
            The ids of those that ended here; of several processes that look at once, one ends each.

        Raises:
            DatabaseUnavailable: some may have ended.
        """
        since = (now or datetime.now(UTC)) - self._idle
        expired: list[str] = []
        spared: set[str] = set()
        while found := [name for name in await self._sessions.idle(since, PAGE + len(spared)) if name not in spared]:
            for session_id in found:
                if not await self._busy(session_id) and await self._sessions.end(session_id, "expired", since):
                    expired.append(session_id)
                    await self._publish(session_id)
                else:
                    spared.add(session_id)
        return expired

    async def _publish(self, session_id: str) -> None:
        event = SessionExpired(session_id=session_id, aggregate_id=session_id, reason="idle")
        consequence = to_infrastructure_event(event)
        assert consequence is not None
        consequence.causation_id = event.event_id
        await self._bus.publish(event)
        await self._bus.publish(consequence)

    def start(self) -> None:
        """Look from time to time, in the background."""
        self._stopping.clear()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every_seconds):
                    await self._stopping.wait()
                return
            except TimeoutError:
                pass
            try:
                await self.expire()
            except SessionsError as error:
                logger.error("idle sessions could not be ended: %s", error)
            except Exception:
                logger.exception("idle sessions could not be ended")

    async def stop(self) -> None:
        """Look no longer; what has begun to end is published first."""
        self._stopping.set()
        if self._task is not None:
            await self._task
            self._task = None
