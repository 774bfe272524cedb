"""One database for everything of the runtime that is no event: a SQLite file, or PostgreSQL.

database = Database("sqlite:///runtime.db")        # or postgresql://user:secret@host/name
await database.migrate()
async with database.write() as session:            # commits at the end, rolls back on an error
    row = await session.get(SessionRow, "s-1", with_for_update=True)
async with database.read() as session:
    rows = (await session.scalars(select(SessionRow))).all()
await database.close()
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, Connection, DateTime, Dialect, MetaData, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

from agent_runtime.sessions.errors import DatabaseUnavailable

MIGRATIONS = "agent_runtime.sessions:migrations"
# Which of several processes that start together migrates: the first to hold this lock. Any number that is ours.
_MIGRATION_LOCK = 0x6167656E74

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, given and returned in UTC; SQLite would forget the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database.

        Raises:
            ValueError: the time has no zone.
        """
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without zone can't be stored: {value}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Of every table. ``dict`` and ``list`` are JSON, whose None is SQL's NULL; ``datetime`` is aware, in UTC."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own attribute
        dict[str, Any]: JSON(none_as_null=True),
        list[dict[str, Any]]: JSON(none_as_null=True),
        datetime: UtcDateTime(),
    }


class Database:
    """Reads and writes in transactions.

    On SQLite (WAL) any number may read while one writes; a writer takes the write lock before it reads, so that
    read-modify-write is safe. On PostgreSQL writers run side by side: who reads a row in order to change it asks for
    it ``with_for_update`` (SQLite ignores that), or writes compare-and-set.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``postgresql://user:secret@host:port/name``, or
            ``memory://`` for a throw-away SQLite file. The drivers' names (``sqlite+aiosqlite``, …) are fine too.
        pool_size: connections that are open at once, at most.
        wait_seconds: how long to wait for a connection, or on SQLite for another process's write lock.
        synchronous: SQLite's setting of this name; FULL keeps what was committed through a power failure.

    Raises:
        ValueError: the URL names no database that is known here.
    """

    def __init__(self, url: str, *, pool_size: int = 10, wait_seconds: float = 30.0, synchronous: str = "FULL") -> None:
        self._folder = TemporaryDirectory(prefix="agent-runtime-") if url.startswith("memory:") else None
        self.url = _url(f"sqlite:///{self._folder.name}/memory.db" if self._folder else url)
        self.is_sqlite = self.url.drivername.startswith("sqlite")
        self.engine: AsyncEngine = create_async_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=wait_seconds,
            pool_pre_ping=not self.is_sqlite,
            # What people say stands in no error and no log.
            hide_parameters=True,
            # One behaviour on both: PostgreSQL refuses NaN.
            json_serializer=partial(json.dumps, allow_nan=False, separators=(",", ":")),
        )
        if self.is_sqlite:
            _set_up_sqlite(self.engine, wait_seconds, synchronous)
        self._reads = async_sessionmaker(self.engine, expire_on_commit=False)
        self._writes = async_sessionmaker(self.engine.execution_options(writes=True), expire_on_commit=False)
        # SQLite's writers wait for one another here, in the order they came, instead of polling for the file's lock.
        self._writer = asyncio.Lock() if self.is_sqlite else None

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session on one snapshot (SQLite), or of one read-committed transaction (PostgreSQL).

        Raises:
            DatabaseUnavailable: see the class.
        """
        with _translated():
            async with self._reads() as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A session whose changes are committed, durably, when the block ends, and rolled back if it raises.

        On SQLite there is one at a time: do nothing slow in it, and never open a second one inside.

        Raises:
            DatabaseUnavailable: see the class. sqlalchemy.exc.IntegrityError: a constraint refused the change.
        """
        with _translated():
            async with self._writer or nullcontext(), self._writes.begin() as session:
                yield session

    async def migrate(self) -> None:
        """Bring the tables up to date: from nothing, or from any earlier version. Doing it again changes nothing.

        Raises:
            DatabaseUnavailable: see the class.
        """
        async with self.write() as session:
            if not self.is_sqlite:
                await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            connection = await session.connection()
            await connection.run_sync(_upgrade)

    async def close(self) -> None:
        """Let go of every connection."""
        await self.engine.dispose()
        if self._folder is not None:
            self._folder.cleanup()


def _url(text_: str) -> URL:
    try:
        url = make_url(text_)
        driver = _DRIVERS[url.drivername]
    except (ArgumentError, KeyError):
        # Not quoted: there may be a password in it.
        raise ValueError("the database's URL must begin with sqlite:///, postgresql:// or memory://") from None
    if driver.startswith("sqlite"):
        if url.database in (None, "", ":memory:"):
            raise ValueError("the database's URL names no file; for one that is thrown away use memory://")
    elif "sslmode" in url.query:
        # What libpq and most URLs call it; asyncpg takes the same values under another name.
        url = url.update_query_dict({"ssl": url.query["sslmode"]}).difference_update_query(["sslmode"])
    return url.set(drivername=driver)


def _set_up_sqlite(engine: AsyncEngine, wait_seconds: float, synchronous: str) -> None:
    if synchronous.upper() not in ("FULL", "NORMAL", "EXTRA"):
        raise ValueError(f"synchronous must be FULL, NORMAL or EXTRA, got {synchronous!r}")

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        # The driver begins transactions by itself, late and deferred, and so loses updates; we begin them, below.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout = {int(wait_seconds * 1000)}",
            "journal_mode = WAL",
            f"synchronous = {synchronous}",
            "foreign_keys = ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what drivers raise when the database is out of reach into ``DatabaseUnavailable``."""
    try:
        yield
    except (DBAPIError, NoConnectionFree, OSError) as error:
        # A statement or a value that is wrong has a class of its own; what the server could not do has none.
        if isinstance(error, DBAPIError) and type(error) not in (DBAPIError, OperationalError, InterfaceError):
            raise
        raise DatabaseUnavailable(f"the database does not answer: {getattr(error, 'orig', error)}") from error
