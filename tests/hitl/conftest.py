from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import delete

from agent_runtime.events.event_bus import EventBus
from agent_runtime.hitl.manager import HITLManager
from agent_runtime.hitl.models import Approval
from agent_runtime.sessions.database import Database
from tests.hitl.asking import Clock, Managers
from tests.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One server and database for all tests of this folder."""
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with our tables, and nothing in them."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'runtime.db'}"
    else:
        url = request.getfixturevalue("postgres").url
    database = Database(url)
    await database.migrate()
    async with database.write() as session:
        await session.execute(delete(Approval))
    await database.close()
    return url


@pytest.fixture
def clock() -> Clock:
    """The time that managers go by; it stands still."""
    return Clock()


@pytest.fixture
async def managers(url: str, clock: Clock) -> AsyncIterator[Managers]:
    """Makes managers on the same database, each with connections of its own, as several processes have them."""
    async with AsyncExitStack() as stack:
        yield Managers(url, clock, stack)


@pytest.fixture
def bus() -> EventBus:
    """Over a store in memory."""
    return EventBus()


@pytest.fixture
def manager(managers: Managers, bus: EventBus) -> HITLManager:
    """On ``bus``, with 300 s to decide; not started."""
    return managers.new(bus)
