import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from agent_runtime.events.domain_events import SessionExpired
from agent_runtime.events.event_bus import EventBus
from agent_runtime.sessions.database import Database
from agent_runtime.sessions.errors import DatabaseUnavailable, SessionEnded
from agent_runtime.sessions.expiry import PAGE, SessionExpiry
from agent_runtime.sessions.manager import SessionManager

HOUR = 3600.0


def later(hours: float = 2.0) -> datetime:
    """Now, and some hours."""
    return datetime.now(UTC) + timedelta(hours=hours)


async def test_idle_sessions_expire(sessions: SessionManager, bus: EventBus) -> None:
    """With the domain event, and the technical one that it caused; they take no more."""
    await sessions.create("s-1")
    expiry = SessionExpiry(bus, sessions, HOUR)
    with bus.capture_events() as events:
        assert [] == await expiry.expire()
        assert ["s-1"] == await expiry.expire(later())
        assert [] == await expiry.expire(later())
    expired, deleted = events
    assert (SessionExpired, "s-1", "idle") == (type(expired), expired.session_id, expired.reason)
    assert ("session_deleted", "s-1", expired.event_id) == (
        deleted.event_type,
        deleted.session_id,
        deleted.causation_id,
    )
    info = await sessions.get("s-1")
    assert (False, "expired") == (info.active, info.end_reason)
    with pytest.raises(SessionEnded, match="has expired"):
        await sessions.add_message("s-1", {"role": "user", "content": "hi"})


async def test_activity_that_is_not_saved_yet_counts(
    sessions: SessionManager, bus: EventBus, database: Database
) -> None:
    """Nobody's session ends because the database is behind the memory."""
    await sessions.create("s-1")
    created = (await sessions.get("s-1")).created_at
    await asyncio.sleep(0.01)
    await sessions.add_message("s-1", {"role": "user", "content": "hi"})
    at = created + timedelta(hours=1, milliseconds=5)
    assert [] == await SessionExpiry(bus, sessions, HOUR).expire(at)
    assert (await sessions.get("s-1")).active


async def test_who_is_waited_for_does_not_expire(sessions: SessionManager, bus: EventBus) -> None:
    """A session with a pending approval, say; the others do, however many pages of those there are."""
    spared = {f"s-{number}" for number in range(0, PAGE + 20, 2)}
    for number in range(PAGE + 20):
        await sessions.create(f"s-{number}")

    async def busy(session_id: str) -> bool:
        return session_id in spared

    expired = await SessionExpiry(bus, sessions, HOUR, busy=busy).expire(later())
    assert sorted(f"s-{number}" for number in range(1, PAGE + 20, 2)) == sorted(expired)
    assert spared == {info.id for info in await sessions.list(limit=1000)}


async def test_a_session_expires_once(sessions: SessionManager, bus: EventBus, other_database: Database) -> None:
    """Of several processes that look at once, one ends it."""
    for number in range(20):
        await sessions.create(f"s-{number}")
    owners = (sessions, SessionManager(bus, other_database))
    with bus.capture_events() as events:
        ended = await asyncio.gather(*(SessionExpiry(bus, owner, HOUR).expire(later()) for owner in owners))
    assert sorted(f"s-{number}" for number in range(20)) == sorted(ended[0] + ended[1])
    assert 40 == len(events)


class BrokenSessions(SessionManager):
    """Whose database is away the first time."""

    looked = 0

    async def idle(self, since: datetime, limit: int = 100) -> list[str]:
        """See ``SessionManager.idle``."""
        self.looked += 1
        if self.looked == 1:
            raise DatabaseUnavailable("down")
        return await super().idle(since, limit)


async def test_it_looks_by_itself_and_again_after_an_error(
    bus: EventBus, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Until it is stopped."""
    sessions = BrokenSessions(bus, database)
    await sessions.create("s-1")
    ended = asyncio.Event()
    bus.subscribe(event_type=SessionExpired, handler=lambda _: ended.set())
    expiry = SessionExpiry(bus, sessions, 0.0, every_seconds=0.01)
    with caplog.at_level(logging.ERROR, "agent_runtime.sessions"):
        expiry.start()
        await asyncio.wait_for(ended.wait(), 10)
        await expiry.stop()
    assert ["idle sessions could not be ended: down"] == [record.getMessage() for record in caplog.records]
    looked = sessions.looked
    await asyncio.sleep(0.05)
    assert looked == sessions.looked
