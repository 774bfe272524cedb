from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from agent_runtime.events.event_bus import EventBus
from agent_runtime.sessions.database import Database
from agent_runtime.sessions.manager import SessionManager
from tests.postgres_server import PostgresServer

TABLES = "sessions, messages, agent_contexts, approvals"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One server for all tests of this folder."""
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runtime.db'}"
    return str(request.getfixturevalue("postgres").new_database())


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with our tables, and nothing in them."""
    if request.param == "sqlite":
        found = f"sqlite:///{tmp_path / 'runtime.db'}"
    else:
        found = request.getfixturevalue("postgres").url
    database = Database(found)
    await database.migrate()
    if not database.is_sqlite:
        async with database.write() as session:
            await session.execute(text(f"TRUNCATE {TABLES}"))
    await database.close()
    return found


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """On ``url``."""
    database = Database(url)
    yield database
    await database.close()


@pytest.fixture
async def other_database(url: str) -> AsyncIterator[Database]:
    """On ``url`` as well, with connections of its own, as another process has them."""
    database = Database(url)
    yield database
    await database.close()


@pytest.fixture
def bus() -> EventBus:
    """Over a store in memory."""
    return EventBus()


@pytest.fixture
def sessions(bus: EventBus, database: Database) -> SessionManager:
    """On ``bus`` and ``database``."""
    return SessionManager(bus, database)
