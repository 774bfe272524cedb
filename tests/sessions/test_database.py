import asyncio
from datetime import UTC, datetime, timedelta, timezone
from importlib.resources import files
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

import agent_runtime.hitl.models
import agent_runtime.sessions.models  # noqa: F401 - the tables must be known
from agent_runtime.sessions.database import MIGRATIONS, Base, Database
from agent_runtime.sessions.errors import DatabaseUnavailable
from agent_runtime.sessions.models import MessageRow, SessionRow
from tests.postgres_server import PostgresServer

WHEN = datetime(2026, 1, 17, 14, 0, 0, 1, UTC)
TABLES = {"alembic_version", "sessions", "messages", "agent_contexts", "approvals"}


def session_row(session_id: str = "s-1", **columns: Any) -> SessionRow:
    """A row with something in every required column."""
    values: dict[str, Any] = {
        "system_prompt": "",
        "created_by": "test",
        "details": {},
        "message_count": 0,
        "created_at": WHEN,
        "last_activity_at": WHEN,
    }
    return SessionRow(id=session_id, **{**values, **columns})


def message_row(session_id: str, message: dict[str, Any]) -> MessageRow:
    """The first message of a session."""
    return MessageRow(session_id=session_id, position=1, message_id="m", role="user", message=message, created_at=WHEN)


async def tables(database: Database) -> set[str]:
    """The tables that there are."""
    async with database.read() as session:
        connection = await session.connection()
        return await connection.run_sync(lambda c: set(inspect(c).get_table_names()))


async def test_migrations_go_up_from_nothing_and_again(empty_url: str) -> None:
    """The second time changes nothing, and what was written stays."""
    database = Database(empty_url)
    await database.migrate()
    async with database.write() as session:
        session.add(session_row())
    await database.migrate()
    assert TABLES == await tables(database)
    async with database.read() as session:
        assert "test" == (await session.get(SessionRow, "s-1")).created_by
    await database.close()


async def test_processes_that_start_together_migrate_once(empty_url: str) -> None:
    """None of them fails because another was faster."""
    databases = [Database(empty_url) for _ in range(4)]
    await asyncio.gather(*(database.migrate() for database in databases))
    assert TABLES == await tables(databases[0])
    for database in databases:
        await database.close()


async def test_migrations_go_down_again(empty_url: str) -> None:
    """To nothing."""
    database = Database(empty_url)
    await database.migrate()

    def down(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", MIGRATIONS)
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    async with database.write() as session:
        await (await session.connection()).run_sync(down)
    assert {"alembic_version"} == await tables(database)
    await database.close()


async def test_migrations_make_what_the_classes_say(database: Database) -> None:
    """Alembic finds nothing that it would change."""

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))

    async with database.read() as session:
        assert [] == await (await session.connection()).run_sync(differences)


def test_migrations_are_part_of_the_package() -> None:
    """Alembic's own files too, which are no modules."""
    folder = files("agent_runtime.sessions.migrations")
    assert {"env.py", "script.py.mako", "versions"} <= {entry.name for entry in folder.iterdir()}


async def test_400_concurrent_updates_lose_none(database: Database, other_database: Database) -> None:
    """Read, wait, write: from many tasks, over connections of two owners."""
    async with database.write() as session:
        session.add(session_row())

    async def add_one(owner: Database) -> None:
        async with owner.write() as session:
            row = await session.get(SessionRow, "s-1", with_for_update=True)
            await asyncio.sleep(0)
            row.message_count += 1

    await asyncio.gather(*(add_one(owner) for _ in range(200) for owner in (database, other_database)))
    async with database.read() as session:
        assert 400 == (await session.get(SessionRow, "s-1")).message_count


async def test_a_write_that_raises_leaves_nothing(database: Database) -> None:
    """What was written before the error is rolled back, and the next write goes on."""
    with pytest.raises(RuntimeError, match="halfway"):
        async with database.write() as session:
            session.add(session_row())
            await session.flush()
            raise RuntimeError("halfway")
    async with database.write() as session:
        assert await session.get(SessionRow, "s-1") is None


async def test_a_cancelled_write_holds_nobody_up(database: Database) -> None:
    """Its lock and its connection come back, and nothing of it stays."""
    inside = asyncio.Event()

    async def hang() -> None:
        async with database.write() as session:
            session.add(session_row())
            await session.flush()
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.write() as session:
        assert await session.get(SessionRow, "s-1") is None


async def test_reading_goes_on_while_someone_writes(database: Database) -> None:
    """A reader sees what was committed before, and waits for nobody."""
    async with database.write() as writer:
        writer.add(session_row())
        await writer.flush()
        async with database.read() as reader:
            assert await reader.get(SessionRow, "s-1") is None
    async with database.read() as reader:
        assert await reader.get(SessionRow, "s-1") is not None


async def test_times_are_aware_and_in_utc(database: Database) -> None:
    """Whatever zone they came in, to the microsecond."""
    local = WHEN.astimezone(timezone(timedelta(hours=5, minutes=30)))
    async with database.write() as session:
        session.add(session_row(created_at=local))
    async with database.read() as session:
        found = (await session.get(SessionRow, "s-1")).created_at
    assert (WHEN, timedelta(0)) == (found, found.utcoffset())


async def test_a_time_without_zone_is_refused(database: Database) -> None:
    """It would mean something else on each machine."""
    with pytest.raises(SQLAlchemyError, match="without zone"):
        async with database.write() as session:
            session.add(session_row(created_at=WHEN.replace(tzinfo=None)))


async def test_any_text_survives(database: Database) -> None:
    """What models and tools write is not always fit for a database: NUL, half a character, 64 bits and more."""
    message = {
        "role": "user",
        "content": "a\0b \ud800 \u2028 日本 \\u0000",
        "numbers": [2**70, -0.5, 1e300],
        "z": 1,
        "a": {},
    }
    async with database.write() as session:
        session.add(session_row())
        await session.flush()
        session.add(message_row("s-1", message))
    async with database.read() as session:
        found = (await session.get(MessageRow, ("s-1", 1))).message
    assert (message, list(message)) == (found, list(found))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_what_is_no_json_is_refused(database: Database, number: float) -> None:
    """By both databases alike."""
    with pytest.raises(SQLAlchemyError, match="not JSON compliant"):
        async with database.write() as session:
            session.add(session_row(details={"number": number}))


async def test_foreign_keys_hold(database: Database) -> None:
    """There is no message without its session."""
    with pytest.raises(IntegrityError):
        async with database.write() as session:
            session.add(message_row("nobody", {"role": "user"}))


async def test_errors_tell_no_content(database: Database) -> None:
    """What people say stands in no error, and so in no log."""
    with pytest.raises(IntegrityError) as caught:
        async with database.write() as session:
            session.add(message_row("nobody", {"role": "user", "content": "canary-7f3a"}))
    assert "canary-7f3a" not in f"{caught.value} {caught.value!r}"


async def test_a_database_in_memory_is_gone_when_it_is_closed() -> None:
    """Two of them have nothing in common."""
    first, second = Database("memory://"), Database("memory://")
    await first.migrate()
    assert (TABLES, set()) == (await tables(first), await tables(second))
    await first.close()
    await second.close()


async def test_sqlite_is_set_up_for_durability(tmp_path: Any) -> None:
    """WAL, synchronous FULL, foreign keys, and patience with another process."""
    database = Database(f"sqlite:///{tmp_path}/a.db", wait_seconds=7)
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    async with database.read() as session:
        found = {name: (await session.execute(text(f"PRAGMA {name}"))).scalar() for name in names}
    await database.close()
    assert {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 7000} == found


async def test_a_server_that_comes_back_is_used_again(postgres: PostgresServer) -> None:
    """While it is away the error says so, without the password; afterwards everything works as before."""
    database = Database(postgres.new_database())
    await database.migrate()
    postgres.kill()
    try:
        with pytest.raises(DatabaseUnavailable) as caught:
            async with database.write() as session:
                session.add(session_row())
    finally:
        postgres.start()
    assert postgres.password not in str(caught.value)
    async with database.write() as session:
        session.add(session_row())
    await database.close()


@pytest.mark.parametrize(
    ("url", "rendered"),
    [
        ("sqlite:///a.db", "sqlite+aiosqlite:///a.db"),
        ("sqlite+aiosqlite:////tmp/a.db", "sqlite+aiosqlite:////tmp/a.db"),
        ("postgresql://u:p@h:1/d", "postgresql+asyncpg://u:p@h:1/d"),
        ("postgres://u@h/d?sslmode=require", "postgresql+asyncpg://u@h/d?ssl=require"),
        ("postgresql+asyncpg://u@h/d", "postgresql+asyncpg://u@h/d"),
    ],
)
def test_urls_that_users_have(url: str, rendered: str) -> None:
    """With and without the driver's name."""
    assert rendered == Database(url).url.render_as_string(hide_password=False)


@pytest.mark.parametrize(
    "url",
    ["", "mysql://u:hunter2@h/d", "postgresql+psycopg://u:hunter2@h/d", "hunter2", "sqlite://", "sqlite:///:memory:"],
)
def test_urls_that_lead_nowhere(url: str) -> None:
    """The error says what is possible, and quotes nothing: there may be a password in it."""
    with pytest.raises(ValueError, match="the database's URL") as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
