import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.event_bus import EventBus
from agent_runtime.sessions.database import Database
from agent_runtime.sessions.errors import (
    DatabaseUnavailable,
    InvalidSession,
    SessionEnded,
    SessionExists,
    UnknownSession,
)
from agent_runtime.sessions.manager import SessionManager
from agent_runtime.sessions.models import MessageRow

ROOT = Path(__file__).parents[2]
TURN: list[dict[str, Any]] = [
    {"role": "user", "content": "say hi"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c-1", "type": "function", "function": {"name": "echo", "arguments": '{"text": "hi"}'}}],
    },
    {"role": "tool", "tool_call_id": "c-1", "name": "echo", "content": "hi"},
    {"role": "assistant", "content": "I said hi."},
]


def said(number: int) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": f"message {number}"}


class ForgetfulDatabase(Database):
    """Commits, and then says that it did not, while ``lost`` is set; refuses everything while ``down`` is."""

    lost = down = False

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """See ``Database.write``."""
        if self.down:
            raise DatabaseUnavailable("down")
        async with super().write() as session:
            yield session
        if self.lost:
            raise DatabaseUnavailable("the acknowledgement was lost")


@pytest.fixture
async def forgetful(url: str) -> AsyncIterator[ForgetfulDatabase]:
    """On ``url``."""
    database = ForgetfulDatabase(url)
    yield database
    await database.close()


async def stored(database: Database, session_id: str) -> list[dict[str, Any]]:
    """The messages that the database has, whatever is in anyone's memory."""
    query = select(MessageRow).where(MessageRow.session_id == session_id).order_by(MessageRow.position)
    async with database.read() as session:
        rows = list(await session.scalars(query))
    assert list(range(1, len(rows) + 1)) == [row.position for row in rows]
    return [row.message for row in rows]


async def test_a_turn_is_given_back_as_it_was(
    sessions: SessionManager, database: Database, other_database: Database
) -> None:
    """Tool calls and results, in order, with the agent of each; here at once, elsewhere once it is saved."""
    await sessions.create("s-1")
    for message, agent in zip(TURN, (None, "coder", None, "coder"), strict=True):
        await sessions.add_message("s-1", message, agent)
    assert TURN == await sessions.history("s-1")
    await sessions.save_now("s-1")
    elsewhere = SessionManager(EventBus(), other_database)
    assert TURN == await elsewhere.history("s-1")
    assert await sessions.messages("s-1") == await elsewhere.messages("s-1")
    assert [None, "coder", None, "coder"] == [message.agent for message in await elsewhere.messages("s-1")]
    assert await sessions.get("s-1") == await elsewhere.get("s-1")


async def test_what_happens_is_published(sessions: SessionManager, bus: EventBus) -> None:
    """Once each, with the turn that is current; the beginning has the current cause, and is the cause of the rest."""
    EventCorrelation.set_correlation_id("turn-1")
    EventCorrelation.set_causation_id("00000000-0000-4000-8000-000000000001")
    with bus.capture_events() as events:
        await sessions.create("s-1", system_prompt="Be brief.")
        await sessions.add_message("s-1", {"role": "user", "content": "hello"}, agent="coder")
        await sessions.update("s-1", "title", {"title": "t"})
        await sessions.delete("s-1")
    assert [
        ("session_created", {"system_prompt_length": 9}),
        ("message_added", {"role": "user", "content_length": 5, "agent_name": "coder"}),
        ("session_updated", {"update_type": "title"}),
        ("session_deleted", {"soft_delete": True}),
    ] == [(event.event_type, event.data) for event in events]
    assert {("s-1", "turn-1")} == {(event.session_id, event.correlation_id) for event in events}
    created, *later = events
    assert "00000000-0000-4000-8000-000000000001" == created.causation_id
    assert {created.event_id} == {event.causation_id for event in later}


async def test_queries_are_published_if_wanted(bus: EventBus, database: Database) -> None:
    """What was done, and how long it took."""
    sessions = SessionManager(bus, database, report_queries=True)
    with bus.capture_events() as events:
        await sessions.create("s-1")
        await sessions.add_message("s-1", said(1))
        await sessions.save_now("s-1")
    queries = [event for event in events if event.event_type == "database_query_executed"]
    assert [("save_session", "s-1")] * 2 == [(event.data["operation"], event.session_id) for event in queries]
    assert all(event.data["duration_ms"] > 0 for event in queries)


async def test_messages_are_written_behind(sessions: SessionManager, database: Database) -> None:
    """Not before someone saves; and then until now, once."""
    await sessions.create("s-1")
    assert [] == sessions.dirty()
    await sessions.add_message("s-1", said(1))
    assert (["s-1"], []) == (sessions.dirty(), await stored(database, "s-1"))
    await sessions.save_now("s-1")
    await sessions.save_now("s-1")
    assert ([], [said(1)]) == (sessions.dirty(), await stored(database, "s-1"))


async def test_saving_what_is_not_in_memory_changes_nothing(sessions: SessionManager) -> None:
    """Sessions of other programs, whose events pass by, too."""
    await sessions.save_now("somebody-else's")
    assert await sessions.get("somebody-else's") is None


async def test_saves_at_once_keep_every_message_once(sessions: SessionManager, database: Database) -> None:
    """400 messages while 400 saves are under way; the order is that of the memory."""
    await sessions.create("s-1")

    async def say(number: int) -> None:
        await sessions.add_message("s-1", said(number))
        await sessions.save_now("s-1")

    await asyncio.gather(*(say(number) for number in range(400)))
    history = await sessions.history("s-1")
    assert ([], history) == (sessions.dirty(), await stored(database, "s-1"))
    assert [said(number) for number in range(400)] == sorted(history, key=lambda m: int(m["content"].split()[1]))


async def test_two_processes_lose_nothing_of_each_other(
    sessions: SessionManager, database: Database, other_database: Database
) -> None:
    """400 messages of one session from two managers; each message is kept once, each one's own in its order."""
    other = SessionManager(EventBus(), other_database)
    await sessions.create("s-1")

    async def talk(manager: SessionManager, numbers: range) -> None:
        for number in numbers:
            await manager.add_message("s-1", said(number))
            if number % 7 == 0:
                await manager.save_now("s-1")
            await asyncio.sleep(0)
        await manager.save_now("s-1")

    await asyncio.gather(talk(sessions, range(200)), talk(other, range(200, 400)))
    numbers = [int(message["content"].split()[1]) for message in await stored(database, "s-1")]
    assert list(range(400)) == sorted(numbers)
    for mine in (range(200), range(200, 400)):
        assert list(mine) == [number for number in numbers if number in mine]
    # Whoever saved last among the others reads, when the session is used again, what all have said.
    await sessions.add_message("s-1", said(400))
    await sessions.save_now("s-1")
    assert await stored(database, "s-1") == await sessions.history("s-1")
    assert 401 == (await sessions.get("s-1")).message_count


async def test_details_of_two_processes_are_merged(sessions: SessionManager, other_database: Database) -> None:
    """Each changes what it changed, and nothing else."""
    other = SessionManager(EventBus(), other_database)
    await sessions.create("s-1", details={"a": 0, "b": 0, "c": 0})
    await other.history("s-1")
    await sessions.update("s-1", "a", {"a": 1})
    await other.update("s-1", "b", {"b": 2})
    await sessions.save_now("s-1")
    await other.save_now("s-1")
    elsewhere = SessionManager(EventBus(), other_database)
    assert {"a": 1, "b": 2, "c": 0} == (await elsewhere.get("s-1")).details


async def test_a_save_of_which_nobody_knows_is_repeated_safely(
    bus: EventBus, forgetful: ForgetfulDatabase, database: Database
) -> None:
    """The commit succeeded, its acknowledgement was lost: the message is kept once, and what follows behind it."""
    sessions = SessionManager(bus, forgetful)
    await sessions.create("s-1")
    await sessions.add_message("s-1", said(1))
    forgetful.lost = True
    with pytest.raises(DatabaseUnavailable):
        await sessions.save_now("s-1")
    assert ["s-1"] == sessions.dirty()
    forgetful.lost = False
    await sessions.add_message("s-1", said(2))
    await sessions.save_now("s-1")
    assert [said(1), said(2)] == await stored(database, "s-1") == await sessions.history("s-1")


async def test_while_the_database_is_away_nothing_is_lost(
    bus: EventBus, forgetful: ForgetfulDatabase, database: Database
) -> None:
    """Talking goes on; who needs durability gets an error; a new session is refused, and leaves nothing."""
    sessions = SessionManager(bus, forgetful)
    await sessions.create("s-1")
    forgetful.down = True
    await sessions.add_message("s-1", said(1))
    await sessions.update("s-1", "title", {"title": "t"})
    with pytest.raises(DatabaseUnavailable):
        await sessions.save_now("s-1")
    with pytest.raises(DatabaseUnavailable):
        await sessions.create("s-2")
    forgetful.down = False
    await sessions.save_now("s-1")
    assert ([said(1)], []) == (await stored(database, "s-1"), sessions.dirty())
    assert {"title": "t"} == (await SessionManager(bus, database).get("s-1")).details
    assert await sessions.get("s-2") is None


async def test_what_was_saved_survives_a_kill(url: str, database: Database, bus: EventBus) -> None:
    """A process is killed (-9) right after ``save_now``, with a message more in its memory."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.sessions.dying", url, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert -signal.SIGKILL == await process.wait()
    assert TURN[:3] == await SessionManager(bus, database).history("s-1")


async def test_a_session_begins_once(sessions: SessionManager, bus: EventBus) -> None:
    """Of many that begin the same one together, one succeeds, and one event is published."""
    with bus.capture_events() as events:
        outcomes = await asyncio.gather(*(sessions.create("s-1") for _ in range(20)), return_exceptions=True)
    assert [SessionExists] * 19 == [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)]
    assert 1 == len(events)


async def test_ensure_begins_a_session_where_there_is_none(
    sessions: SessionManager, bus: EventBus, other_database: Database
) -> None:
    """From any number of tasks and processes at once; all get the same."""
    other = SessionManager(bus, other_database)
    with bus.capture_events() as events:
        infos = await asyncio.gather(*(owner.ensure("s-1") for _ in range(10) for owner in (sessions, other)))
    assert {"s-1"} == {info.id for info in infos}
    assert ["session_created"] == [event.event_type for event in events]


async def test_an_id_is_minted(sessions: SessionManager) -> None:
    """A different one each time."""
    infos = [await sessions.create() for _ in range(3)]
    assert 3 == len({info.id for info in infos})
    with pytest.raises(InvalidSession):
        await sessions.create("")


async def test_what_is_not_there(sessions: SessionManager) -> None:
    """Ids that no session can have are as unknown as any other."""
    for session_id in ("nobody", "", "a\0b", "\ud800"):
        assert await sessions.get(session_id) is None
        for call in (
            sessions.history(session_id),
            sessions.add_message(session_id, said(1)),
            sessions.update(session_id, "x", {}),
            sessions.delete(session_id),
        ):
            with pytest.raises(UnknownSession):
                await call


async def test_a_deleted_session_stays_readable(sessions: SessionManager, bus: EventBus, database: Database) -> None:
    """What was in memory only is saved; it takes no more; deleting it again changes nothing."""
    await sessions.create("s-1")
    await sessions.add_message("s-1", said(1))
    assert await sessions.delete("s-1")
    with bus.capture_events() as events:
        assert not await sessions.delete("s-1")
    assert [] == events
    assert [said(1)] == await sessions.history("s-1") == await stored(database, "s-1")
    info = await sessions.get("s-1")
    assert (False, "deleted") == (info.active, info.end_reason)
    with pytest.raises(SessionEnded, match="has been deleted"):
        await sessions.add_message("s-1", said(2))
    with pytest.raises(SessionExists):
        await sessions.create("s-1")


async def test_a_session_is_deleted_once(sessions: SessionManager, bus: EventBus, other_database: Database) -> None:
    """Of any number of tasks and processes, one does it."""
    other = SessionManager(bus, other_database)
    await sessions.create("s-1")
    await other.history("s-1")
    with bus.capture_events() as events:
        outcomes = await asyncio.gather(*(owner.delete("s-1") for _ in range(10) for owner in (sessions, other)))
    assert (1, ["session_deleted"]) == (sum(outcomes), [event.event_type for event in events])


async def test_another_process_learns_of_the_end_when_it_saves(
    sessions: SessionManager, other_database: Database, database: Database
) -> None:
    """What it had taken by then is kept; then it takes no more."""
    other = SessionManager(EventBus(), other_database)
    await sessions.create("s-1")
    await other.add_message("s-1", said(1))
    await sessions.delete("s-1")
    await other.save_now("s-1")
    assert [said(1)] == await stored(database, "s-1")
    with pytest.raises(SessionEnded):
        await other.add_message("s-1", said(2))


async def test_a_message_that_meets_the_end_is_kept_or_refused(sessions: SessionManager, database: Database) -> None:
    """Never accepted and lost."""
    await sessions.create("s-1")
    accepted: list[dict[str, Any]] = []

    async def talk() -> None:
        for number in range(1000):
            try:
                accepted.append((await sessions.add_message("s-1", said(number))).message)
            except SessionEnded:
                return
            await asyncio.sleep(0.001)

    talking = asyncio.create_task(talk())
    await asyncio.sleep(0.01)
    assert await sessions.delete("s-1")
    await talking
    assert (accepted, []) == (await stored(database, "s-1"), sessions.dirty())


async def test_pages_are_ordered_by_activity(sessions: SessionManager) -> None:
    """The latest first, with what is still in memory; ended sessions only when they are wanted."""
    for number in range(5):
        await sessions.create(f"s-{number}")
    await sessions.delete("s-3")
    await sessions.add_message("s-2", said(1))
    page = await sessions.list(limit=3)
    assert [("s-4", 0), ("s-2", 1), ("s-1", 0)] == [(info.id, info.message_count) for info in page]
    assert ["s-0"] == [info.id for info in await sessions.list(limit=3, offset=3)]
    await sessions.save_now("s-2")
    assert ["s-2", "s-4"] == [info.id for info in await sessions.list(limit=2)]
    everything = await sessions.list(active_only=False)
    assert ({"s-0", "s-1", "s-2", "s-3", "s-4"}, [False]) == (
        {info.id for info in everything},
        [info.active for info in everything if info.id == "s-3"],
    )
    assert all(first.last_activity_at >= second.last_activity_at for first, second in pairwise(everything))


async def test_memory_is_bounded_and_forgets_nothing(bus: EventBus, database: Database) -> None:
    """Sessions that make room are read again; those that are not saved stay."""
    sessions = SessionManager(bus, database, cache_size=2)
    for number in range(10):
        await sessions.create(f"s-{number}")
        await sessions.add_message(f"s-{number}", said(number))
        if number % 2:
            await sessions.save_now(f"s-{number}")
    assert [f"s-{number}" for number in range(0, 10, 2)] == sessions.dirty()
    for number in range(10):
        assert [said(number)] == await sessions.history(f"s-{number}")
    async with database.read() as session:
        assert 5 == await session.scalar(select(func.count()).select_from(MessageRow))
